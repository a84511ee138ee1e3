"""Size and speed of an exported file, and of the model that it was exported from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import nn

from robustcls.core.classifier import device_of
from robustcls.models.onnx.net import OnnxNet
from robustcls.runtime.flops import forward_flops
from robustcls.runtime.timing import milliseconds, one_thread

BATCHES = (1, 8, 32)
LIMITS: Any = {"most": 200, "least": 10, "seconds": 2.0}  # limits on the timed runs per batch size

# Batch size, number of runs, then median and 99th percentile in milliseconds: of the file, and of the original model if that
# runs on the CPU.
Times = tuple[int, int, float, float, float | None, float | None]


def size_of_file(net: OnnxNet, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return bytes, parameters, and multiply-adds per image (0 if not known). shape: 1,C,H,W."""
    image = torch.zeros(net.batch_size or 1, *shape[1:])
    macs = _macs(net.twin, image) if net.twin is not None else 0
    return Path(net.path).stat().st_size, net.parameters_in_file, macs


def size_of_module(model: nn.Module, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the same for a PyTorch module, whose bytes are those of its parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    size = sum(one.numel() * one.element_size() for one in tensors)
    return size, sum(one.numel() for one in model.parameters()), _macs(model, torch.zeros(1, *shape[1:]))


def time_runs(net: OnnxNet, shape: Sequence[int], original: nn.Module | None) -> list[Times]:
    """Time the file at each batch size that it allows, on one thread. shape: 1,C,H,W."""
    with one_thread():
        return [_time(net, batch, shape, original) for batch in BATCHES if net.batch_size in (None, batch)]


def _macs(model: nn.Module, images: torch.Tensor) -> int:
    """Return the multiply-adds per image."""
    return int(forward_flops(model, images.to(device_of(model)))) // 2


def _time(net: OnnxNet, batch: int, shape: Sequence[int], original: nn.Module | None) -> Times:
    images = torch.rand(batch, *shape[1:])
    run = net.runner(threads=1)
    file_times = milliseconds(lambda: run(images.numpy()), **LIMITS)
    original_times: tuple[float | None, float | None] = (None, None)
    if original is not None and all(one.device.type == "cpu" for one in original.parameters()):
        with torch.no_grad():
            original_times = _percentiles(milliseconds(lambda: original(images), **LIMITS))
    return batch, len(file_times), *_percentiles(file_times), *original_times


def _percentiles(times: list[float]) -> tuple[float, float]:
    low, high = numpy.percentile(times, (50, 99))
    return float(low), float(high)
