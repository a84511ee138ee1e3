"""Shot noise: light is counted in photons."""

import torch
from torch import Generator, Tensor

from robustcls.corruptions._severity import strength


def shot_noise(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Every value becomes a Poisson count with so many photons for white, cut to [0, 1]."""
    photons = strength(x, severity, small=(500, 250, 100, 75, 50), large=(60, 25, 12, 5, 3))
    return (torch.poisson(x * photons, generator=generator) / photons).clamp(0, 1)
