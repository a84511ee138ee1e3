"""Gaussian noise, for a smoothed classifier."""

import math

import torch
from torch import Generator, Tensor

from robustcls.core.errors import InputError
from robustcls.core.traits import traits


@traits(training_only=True)
def gaussian(x: Tensor, generator: Generator, *, sigma: float = 0.25) -> Tensor:
    """Add Gaussian noise of standard deviation sigma to every pixel, without clamping (Cohen et al. 2019, arXiv:1902.02918).

    Use it to train a model for randomized smoothing with `robustcls certify`, with the same sigma. It must be the last link of
    a chain, because other augmentations may clamp pixels and cut off the noise. It cannot be used with an inner attack, which
    clamps its images: use the objective smooth_adv, which adds its own noise.
    """
    if not 0 < sigma < math.inf:
        raise InputError(f"gaussian(sigma={sigma:g}): give a standard deviation above 0, such as 0.25")
    # empty_like keeps the memory format; the values are drawn in its order.
    return torch.empty_like(x).normal_(generator=generator).mul_(sigma).add_(x)
