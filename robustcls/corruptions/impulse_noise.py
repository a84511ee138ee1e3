"""Impulse noise: salt and pepper, as of bit errors."""

import torch
from torch import Generator, Tensor

from robustcls.corruptions._severity import strength


def impulse_noise(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """A share of the values, drawn channel by channel, becomes 0 or 1 with even odds."""
    share = strength(x, severity, small=(0.01, 0.02, 0.03, 0.05, 0.07), large=(0.03, 0.06, 0.09, 0.17, 0.27))
    draw = torch.rand(x.shape, generator=generator)
    hit = torch.where(draw < share / 2, torch.zeros_like(x), torch.ones_like(x))
    return torch.where(draw < share, hit, x)
