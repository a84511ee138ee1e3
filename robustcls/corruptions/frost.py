"""Frost: ice on the window."""

import torch
from torch import Generator, Tensor

from robustcls.corruptions._fractal import plasma
from robustcls.corruptions._severity import strength

TINT = (0.85, 0.95, 1.0)  # of ice, in red, green and blue


def frost(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """A weighted sum of the image and a texture of ice, cut to [0, 1].

    The published images take crops of six photographs, which are not shipped here: `ice` makes a texture instead.
    """
    keep, cover = strength(
        x,
        severity,
        small=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        large=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    )
    return (keep * x + cover * ice(x, generator)).clamp(0, 1)


def ice(x: Tensor, generator: Generator) -> Tensor:
    """A texture for each image, of its shape: crystals where a rough cloud crosses its middle height, under a haze.

    crystals = (1 - |2 rough - 1|)^2 and haze = smooth are plasma fractals of decay 1.6 and 2.5; the texture is
    0.6 crystals + 0.4 haze, tinted TINT in RGB.
    """
    n, channels, h, w = x.shape
    rough, haze = (plasma(n, h, w, decay, generator) for decay in (1.6, 2.5))
    texture = 0.6 * (1 - (2 * rough - 1).abs()) ** 2 + 0.4 * haze
    return texture * torch.tensor(TINT).view(1, 3, 1, 1) if channels == 3 else texture
