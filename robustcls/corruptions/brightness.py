"""Brightness: more light."""

import torch
from torch import Generator, Tensor

from robustcls.corruptions._severity import strength


def brightness(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Raises the value of HSV, that is, the largest channel, at the same hue and saturation; draws nothing."""
    rise = strength(x, severity, small=(0.05, 0.1, 0.15, 0.2, 0.3), large=(0.1, 0.2, 0.3, 0.4, 0.5))
    value = x.amax(1, keepdim=True)
    raised = (value + rise).clamp(0, 1)
    # At the same hue and saturation all channels grow alike; black has neither, and becomes grey.
    return torch.where(value > 0, x * (raised / value.clamp_min(1e-12)), raised).clamp(0, 1)
