"""Noise: Gaussian (a sensor in low light), shot (photon counts), impulse (bit errors)."""

import torch
from torch import Generator, Tensor

from robustcls.corruptions._severity import strength

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise"]


def gaussian_noise(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Adds Gaussian noise to every value and clips to [0, 1]."""
    deviation = strength(x, severity, small=(0.04, 0.06, 0.08, 0.09, 0.1), large=(0.08, 0.12, 0.18, 0.26, 0.38))
    return (x + deviation * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def shot_noise(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Replaces every value by a Poisson count, scaled by the number of photons for white, and clips to [0, 1]."""
    photons = strength(x, severity, small=(500, 250, 100, 75, 50), large=(60, 25, 12, 5, 3))
    return (torch.poisson(x * photons, generator=generator) / photons).clamp(0, 1)


def impulse_noise(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Sets a random fraction of the values, drawn per channel, to 0 or 1 with equal probability (salt and pepper)."""
    share = strength(x, severity, small=(0.01, 0.02, 0.03, 0.05, 0.07), large=(0.03, 0.06, 0.09, 0.17, 0.27))
    draw = torch.rand(x.shape, generator=generator)
    hit = torch.where(draw < share / 2, torch.zeros_like(x), torch.ones_like(x))
    return torch.where(draw < share, hit, x)
