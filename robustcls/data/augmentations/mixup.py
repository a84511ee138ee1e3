"""Mixup: two images and their labels are mixed."""

import math

import torch
from torch import Generator, Tensor

from robustcls.core.errors import InputError
from robustcls.data.augment import in_format_of


def mixup(x: Tensor, y: Tensor, generator: Generator, *, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mix each image and its label with those of another sample, with lambda ~ Beta(alpha, alpha) (arXiv:1710.09412).

    Zhang et al. 2017; every sample draws its own lambda. y: probabilities N,K.
    """
    share = beta(alpha, len(x), generator, x.device)
    other = torch.randperm(len(x), generator=generator, device=x.device)
    mixed = torch.lerp(x[other], x, share.view(-1, 1, 1, 1))
    return in_format_of(x, mixed), torch.lerp(y[other], y, share[:, None])


def beta(alpha: float, n: int, generator: Generator, device: torch.device) -> Tensor:
    """Draw n values from Beta(alpha, alpha)."""
    if not 0 < alpha < math.inf:
        raise InputError(f"alpha={alpha}: give a positive number")
    # Gamma(alpha) is Gamma(alpha + 1) * U ** (1 / alpha); in logarithms, a small alpha does not underflow.
    gamma = torch._standard_gamma(torch.full((2, n), alpha + 1, device=device), generator=generator)
    uniform = 1 - torch.rand(2, n, generator=generator, device=device)
    first, second = gamma.log() + uniform.log() / alpha
    return torch.sigmoid(first - second)
