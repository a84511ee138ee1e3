"""Improved diversity and balanced hardness, the weak schedule."""

import math

import torch
from torch import Generator, Tensor

from robustcls.core.errors import InputError
from robustcls.data.augment import box, coins, in_format_of
from robustcls.data.augmentations import _functional as F
from robustcls.data.augmentations.random_erasing import random_erasing


def idbh_weak(x: Tensor, generator: Generator, *, crop: int = 10, p: float = 0.5, flip: bool = True) -> Tensor:
    """Horizontal flip, CropShift, one ColorShape operation and random erasing (Li and Spratling 2023, arXiv:2301.09879).

    The authors' schedule cifar10-weak: CropShift removes 0 to `crop` rows and columns in total (at most half of the smaller
    side), and erasing has probability p. Unlike in their code, only equalize rounds to 8 bits, and each ColorShape operation is
    applied to an equal part of the batch.
    """
    if crop < 0 or not 0 <= p <= 1:
        raise InputError(f"idbh_weak: crop={crop}, p={p}: crop must not be negative, and p lie in [0, 1]")
    mirrored = coins(len(x), flip, x, generator).view(-1, 1, 1, 1)
    y = torch.where(mirrored, x.flip(3), x).contiguous()
    y = crop_shift(y, generator, min(crop, min(x.shape[2:]) // 2))
    return in_format_of(x, random_erasing(color_shape(y, generator), generator, p=p))


def crop_shift(x: Tensor, generator: Generator, most: int) -> Tensor:
    """Crop 0 to `most` rows and columns in total, and put the crop at a random place of a black image."""
    n, _, h, w = x.shape
    strength = torch.randint(most + 1, (n,), generator=generator, device=x.device)
    share, *places = torch.rand(5, n, generator=generator, device=x.device)
    crop_x = (share * (strength + 1)).long()
    crop_y = strength - crop_x
    top, to_top = ((place * (crop_y + 1)).long() for place in places[:2])
    left, to_left = ((place * (crop_x + 1)).long() for place in places[2:])
    rows = (torch.arange(h, device=x.device) + (top - to_top)[:, None]).clamp(0, h - 1)
    columns = (torch.arange(w, device=x.device) + (left - to_left)[:, None]).clamp(0, w - 1)
    window = box(x, to_top, to_top + h - crop_y, to_left, to_left + w - crop_x)
    return F.take_pixels(x, rows, columns).masked_fill(~window, 0)


def color_shape(x: Tensor, generator: Generator) -> Tensor:
    """Apply one of eight operations with a random strength to each image: the paper's colour-biased ColorShape."""

    def uniform(part: Tensor, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(part), generator=generator, device=x.device)

    def sign(part: Tensor) -> Tensor:
        return torch.where(coins(len(part), True, x, generator), -1.0, 1.0)

    def shear(part: Tensor) -> Tensor:
        slope = sign(part) * uniform(part, 0.05, 0.15).tan()
        along_x = torch.where(coins(len(part), True, x, generator), slope, 0.0)
        return F.affine(part, (1, along_x, 0), (slope - along_x, 1, 0))

    def rotate(part: Tensor) -> Tensor:
        angle = sign(part) * uniform(part, 1, 11).floor() * (math.pi / 180)
        sin, cos = angle.sin(), angle.cos()
        return F.affine(part, (cos, -sin, 0), (sin, cos, 0))

    operations = (
        lambda part: F.adjust_saturation(part, uniform(part, 0.1, 1.9)),
        lambda part: F.adjust_brightness(part, uniform(part, 0.5, 1.9)),
        lambda part: F.adjust_contrast(part, uniform(part, 0.5, 1.9)),
        lambda part: F.adjust_sharpness(part, uniform(part, 0.1, 1.9)),
        F.autocontrast,
        F.equalize,
        shear,
        rotate,
    )
    return F.one_of(operations, x, generator)
