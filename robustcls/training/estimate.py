"""What a run would cost, from a few of its own updates."""

import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from robustcls.core.gradients import frozen
from robustcls.runtime.device import wait_for
from robustcls.runtime.flops import FlopCounter
from robustcls.runtime.memory import peak_memory_mb
from robustcls.training.run import Run
from robustcls.training.saved import as_it_was

TIMED = 3


@dataclass(frozen=True)
class Cost:
    parameters: int
    trained: int
    forward_flops: float  # of one image; two a multiply-add
    update_flops: float  # of one image: attack, forward and backward
    images_per_second: float
    timed: int
    epoch_seconds: float
    val_seconds: float
    peak_memory_mb: float


def measure_cost(run: Run) -> Cost:
    """Counts and times updates on the run's first batches, after one that warms up; the run is then as it was."""
    seconds, update_flops = [], 0.0
    with as_it_was(run):
        run.begin_epoch()
        # At the end of the run, where whatever has a warm-up is past it.
        run.epoch, run.batch = run.config.epochs - 1, max(0, run.num_batches - TIMED - 1)
        for number, (x, y) in zip(range(TIMED + 1), run.batches(), strict=False):
            started = time.perf_counter()
            with FlopCounter() if number == 0 else nullcontext() as counter:
                run.step(run, x, y)
            if counter:
                update_flops = counter.total / len(x)
            wait_for(run.device)
            seconds.append(time.perf_counter() - started)
    with FlopCounter() as counter, torch.no_grad(), frozen(run.judged):
        run.judged(x[:1])
    forward_flops = float(counter.total)
    started = time.perf_counter()
    run.validate(run.config.val_n)
    val_seconds = time.perf_counter() - started
    each = statistics.median(seconds[1:] or seconds)
    parameters = list(run.model.parameters())
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        forward_flops=forward_flops,
        update_flops=update_flops,
        images_per_second=run.images_per_batch / each,
        timed=max(1, len(seconds) - 1),
        epoch_seconds=each * run.num_batches + val_seconds,
        val_seconds=val_seconds,
        peak_memory_mb=peak_memory_mb(),
    )
