"""Augmentations: batched, on the images' device, every draw from the generator that is given.

Each takes float images N,C,H,W in [0, 1] and gives the same shape, range and memory format.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from robustcls.core import plugins
from robustcls.core.errors import InputError

__all__ = ["affine", "crop_flip", "none"]


def augmenter(spec: str, flip: bool) -> Callable[[Tensor, Generator], Tensor]:
    """The augmentation of a spec such as `crop_flip(pad=2)`; never mirrors where `flip` (of the Images) is False."""
    function = plugins.load("augment", spec)
    if not flip and "flip" in inspect.signature(function).parameters:
        function = partial(function, flip=False)
    return function


def none(x: Tensor, generator: Generator, *, flip: bool = True) -> Tensor:
    """The images as they are."""
    return x


def crop_flip(x: Tensor, generator: Generator, *, pad: int = 4, flip: bool = True) -> Tensor:
    """A random window of the image padded with `pad` black pixels on each side; mirrored left to right half the time."""
    if pad < 0:
        raise InputError(f"crop_flip: pad={pad} is negative: give the number of pixels to add on each side")
    n, c, h, w = x.shape
    top, left = torch.randint(2 * pad + 1, (2, n, 1), generator=generator, device=x.device)
    mirrored = _coins(n, flip, x, generator)[:, None]
    rows = top + torch.arange(h, device=x.device)
    columns = torch.arange(w, device=x.device)
    columns = left + torch.where(mirrored, w - 1 - columns, columns)
    # One gather over flattened pixels: cropping and mirroring are both a choice of source pixels.
    source = (rows[:, :, None] * (w + 2 * pad) + columns[:, None, :]).view(n, 1, h * w)
    padded = F.pad(x, (pad, pad, pad, pad)).flatten(2)
    return _in_format_of(x, padded.gather(2, source.expand(n, c, h * w)).view(n, c, h, w))


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
    """A random rotation, shift, shear and zoom, as Keras's ImageDataGenerator draws them; mirrored half the time.

    Each is drawn uniformly from [-value, value]: degrees of rotation; shift as a share of height and width; shear as an
    angle in degrees (as in Keras, so that 0.2 is next to nothing); zoom as a factor from [1 - zoom, 1 + zoom], for height
    and width apart. Bilinear; what lies outside takes the nearest border pixel.
    """
    if min(degrees, shift, shear, zoom) < 0 or zoom >= 1:
        raise InputError("affine: degrees, shift, shear and zoom must not be negative, and zoom must be below 1")
    n, _, h, w = x.shape
    draws = torch.rand(6, n, generator=generator, device=x.device) * 2 - 1
    angle, slant = draws[0] * math.radians(degrees), draws[1] * math.radians(shear)
    zoom_x, zoom_y = 1 + draws[2] * zoom, 1 + draws[3] * zoom
    move_x, move_y = draws[4] * shift * 2, draws[5] * shift * 2  # in affine_grid's units: the image spans [-1, 1]
    side = torch.where(_coins(n, flip, x, generator), -1.0, 1.0)
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
    return _in_format_of(x, moved.clamp(0, 1))  # interpolation weights can add up to 1 + 1e-7


def _coins(n: int, flip: bool, x: Tensor, generator: Generator) -> Tensor:
    """One fair coin a sample; drawn even where nothing is mirrored, so that `flip` changes no other draw."""
    return (torch.rand(n, generator=generator, device=x.device) < 0.5) & flip


def _in_format_of(x: Tensor, y: Tensor) -> Tensor:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
