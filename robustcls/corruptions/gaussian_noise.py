"""Gaussian noise, as of a sensor in low light."""

import torch
from torch import Generator, Tensor

from robustcls.corruptions._severity import strength


def gaussian_noise(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Adds normal noise to every value, cut to [0, 1]."""
    deviation = strength(x, severity, small=(0.04, 0.06, 0.08, 0.09, 0.1), large=(0.08, 0.12, 0.18, 0.26, 0.38))
    return (x + deviation * torch.randn(x.shape, generator=generator)).clamp(0, 1)
