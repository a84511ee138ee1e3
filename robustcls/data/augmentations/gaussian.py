"""Gaussian noise, for a smoothed classifier."""

import math

import torch
from torch import Generator, Tensor

from robustcls.core.errors import InputError
from robustcls.core.traits import traits


@traits(training_only=True)
def gaussian(x: Tensor, generator: Generator, *, sigma: float = 0.25) -> Tensor:
    """Noise of standard deviation sigma on every pixel, not clamped to [0, 1] (Cohen et al. 2019, arXiv:1902.02918).

    Trains what `robustcls certify` smooths: with the same sigma. It stands last in a chain, for what clamps its pixels would
    cut the noise off, and beside no inner attack, which does so, too: there the objective smooth_adv has noise of its own.
    """
    if not 0 < sigma < math.inf:
        raise InputError(f"gaussian(sigma={sigma:g}): give a standard deviation above 0, such as 0.25")
    # empty_like keeps the memory format; the values are drawn in its order.
    return torch.empty_like(x).normal_(generator=generator).mul_(sigma).add_(x)
