"""The speed of attribution methods."""

import time
from collections.abc import Callable

from torch import Tensor, nn

from robustcls.attribution import explain
from robustcls.bench.training import Result
from robustcls.runtime.device import wait_for
from robustcls.runtime.memory import peak_memory_mb

FIRST = 4  # images of a first run, from which the number of images is estimated
SECONDS = 3.0  # duration of a measurement
Explain = Callable[[nn.Module, str, Tensor, Tensor, int], Tensor]


def our_maps(model: nn.Module, method: str, x: Tensor, y: Tensor, seed: int) -> Tensor:
    return explain(model, x, y, method, seed=seed)


def time_method(method: str, model: nn.Module, x: Tensor, y: Tensor, seed: int, explain: Explain = our_maps) -> Result:
    """Measure images per second of a method, over as many of the images N,C,H,W as take about SECONDS."""

    def seconds_of(count: int) -> float:
        wait_for(x.device)
        started = time.perf_counter()
        explain(model, method, x[:count], y[:count], seed)
        wait_for(x.device)
        return time.perf_counter() - started

    seconds_of(1)  # imports captum, warms up
    count = max(FIRST, min(len(x), int(SECONDS * FIRST / seconds_of(FIRST))))
    seconds = seconds_of(count)
    rate = {"images": count, "seconds": seconds, "images_per_second": count / seconds}
    return rate | {"precision": "fp32", "peak_memory_mb": peak_memory_mb()}
