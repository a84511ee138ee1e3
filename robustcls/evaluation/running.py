"""Size and speed of an exported file, and of the model that it was made of."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
import torch
from torch import nn

from robustcls.models.onnx.net import OnnxNet
from robustcls.runtime.flops import FlopCounter

BATCHES = (1, 8, 32)
RUNS, SECONDS, FEWEST = 200, 2.0, 10  # of each batch size: at most so many runs or seconds, at least so many runs

# Batch, runs, then milliseconds: median and 99th percentile of the file, and of its original where that runs on the CPU.
Times = tuple[int, int, float, float, float | None, float | None]


def size_of_file(net: OnnxNet, shape: Sequence[int]) -> tuple[int, int, int]:
    """Bytes, parameters and multiply-adds of an image, 0 where these are not known. shape: 1,C,H,W."""
    image = torch.zeros(net.batch_size or 1, *shape[1:])
    macs = _macs(net.twin, image) if net.twin is not None else 0
    return Path(net.path).stat().st_size, net.parameters_in_file, macs


def size_of_module(model: nn.Module, shape: Sequence[int]) -> tuple[int, int, int]:
    """The same of a PyTorch module; its bytes are those of its parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(one.numel() * one.element_size() for one in tensors)
    return size, sum(one.numel() for one in model.parameters()), _macs(model, torch.zeros(1, *shape[1:]))


def time_runs(net: OnnxNet, shape: Sequence[int], original: nn.Module | None) -> list[Times]:
    """Of each batch size that the file allows, on one thread. shape: 1,C,H,W."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        return [_time(net, batch, shape, original) for batch in BATCHES if net.batch_size in (None, batch)]
    finally:
        torch.set_num_threads(threads)


def _macs(model: nn.Module, images: torch.Tensor) -> int:
    """Multiply-adds of an image."""
    device = next((one.device for one in (*model.parameters(), *model.buffers())), images.device)
    with torch.no_grad(), FlopCounter() as counter:
        model(images.to(device))
    return counter.total // 2 // len(images)


def _time(net: OnnxNet, batch: int, shape: Sequence[int], original: nn.Module | None) -> Times:
    images = torch.rand(batch, *shape[1:])
    run = net.runner(threads=1)
    mine = _times(lambda: run(images.numpy()))
    theirs: tuple[float | None, float | None] = (None, None)
    if original is not None and all(one.device.type == "cpu" for one in original.parameters()):
        with torch.no_grad():
            theirs = _percentiles(_times(lambda: original(images)))
    return batch, len(mine), *_percentiles(mine), *theirs


def _times(run: Callable[[], object]) -> list[float]:
    """Milliseconds of each run, after three that do not count."""
    for _ in range(3):
        run()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < RUNS and (len(times) < FEWEST or time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return times


def _percentiles(times: list[float]) -> tuple[float, float]:
    low, high = numpy.percentile(times, (50, 99))
    return float(low), float(high)
