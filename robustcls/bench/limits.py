"""The arithmetic limit of speed: the FLOPs of a model, and the FLOP rate of matrix products on this machine."""

import time
from collections.abc import Sequence

import torch
from torch import nn

from robustcls.core.classifier import device_of
from robustcls.runtime import flops
from robustcls.runtime.device import has_bf16, wait_for


def forward_flops(model: nn.Module, input_size: Sequence[int]) -> float:
    """Return the floating-point operations of the forward pass of one image; a multiply-add counts as two."""
    return flops.forward_flops(model, torch.zeros(1, *input_size, device=device_of(model)))


def matrix_rates(device: torch.device, seconds: float = 0.5) -> dict[str, float]:
    """Return the FLOP/s of a large matrix product in fp32 and, if the hardware supports it, bf16: the best of several runs."""
    rates = {"fp32": _rate(device, torch.float32, seconds)}
    if has_bf16(device):
        rates["bf16"] = _rate(device, torch.bfloat16, seconds)
    return rates


def copy_bandwidth(device: torch.device, bytes_copied: int = 1 << 30) -> float:
    """Return the bytes read and written per second by a copy on the device: the best of several runs."""
    source = torch.empty(bytes_copied, dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        wait_for(device)
        started = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        best = max(best, 2 * bytes_copied / (time.perf_counter() - started))
    return best


def _rate(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    side = 8192 if device.type == "cuda" else 1536
    a = torch.randn(side, side, device=device).to(dtype)
    a @ a
    best, began = 0.0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        wait_for(device)
        started = time.perf_counter()
        a @ a
        wait_for(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best
