"""Rotation, shift, shear and zoom."""

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from robustcls.core.errors import InputError
from robustcls.data.augment import coins, in_format_of


def affine(
    x: Tensor,
    generator: Generator,
    *,
    degrees: float = 20.0,
    shift: float = 0.2,
    shear: float = 0.2,
    zoom: float = 0.2,
    flip: bool = True,
) -> Tensor:
    """Random rotation, shift, shear and zoom, drawn as by Keras's ImageDataGenerator; mirrored with probability 1/2.

    Each is drawn uniformly from [-value, value]: degrees of rotation; shift as a fraction of height and width; shear as an
    angle in degrees (as in Keras, so 0.2 is a very small shear). zoom is drawn as a factor from [1 - zoom, 1 + zoom],
    separately for height and width. Interpolation is bilinear; points outside the image take the value of the nearest border
    pixel.
    """
    if min(degrees, shift, shear, zoom) < 0 or zoom >= 1:
        raise InputError("affine: degrees, shift, shear and zoom must not be negative, and zoom must be below 1")
    n, _, h, w = x.shape
    draws = torch.rand(6, n, generator=generator, device=x.device) * 2 - 1
    angle, slant = draws[0] * math.radians(degrees), draws[1] * math.radians(shear)
    zoom_x, zoom_y = 1 + draws[2] * zoom, 1 + draws[3] * zoom
    move_x, move_y = draws[4] * shift * 2, draws[5] * shift * 2  # in affine_grid's units: the image spans [-1, 1]
    side = torch.where(coins(n, flip, x, generator), -1.0, 1.0)
    # From output to input: mirror, zoom, shear, shift, rotate. h / w corrects for grids that are not square.
    sin, cos = angle.sin(), angle.cos()
    slant_x, slant_y = -slant.sin(), slant.cos()
    rows = (
        (
            cos * zoom_x * side,
            (cos * slant_x - sin * slant_y) * zoom_y * (h / w),
            cos * move_x - sin * move_y * (h / w),
        ),
        (
            sin * zoom_x * side * (w / h),
            (sin * slant_x + cos * slant_y) * zoom_y,
            sin * move_x * (w / h) + cos * move_y,
        ),
    )
    matrix = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1).to(x.dtype)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return in_format_of(x, moved.clamp(0, 1))  # interpolation weights can add up to 1 + 1e-7
