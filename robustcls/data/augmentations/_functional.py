"""Batched image operations with a separate strength for each image; names and results as in torchvision's functional module.

Images are N,C,H,W in [0, 1], before and after; factors are N. Images that are not RGB count as grey: hue and saturation do not
change them.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

Place = tuple[Tensor | float, Tensor | float, Tensor | float]


def rgb_to_grayscale(x: Tensor) -> Tensor:
    """Return the luma N,1,H,W of RGB images N,3,H,W; other images are returned unchanged."""
    if x.shape[1] != 3:
        return x
    red, green, blue = x.split(1, dim=1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale the brightness: factor 0 gives black, 1 the image."""
    return (x * _column(factor)).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Scale the contrast: factor 0 gives the image's mean grey, 1 the image."""
    return _blend(rgb_to_grayscale(x).mean((1, 2, 3), keepdim=True), x, factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Scale the saturation: factor 0 gives the grey image, 1 the image."""
    return _blend(rgb_to_grayscale(x), x, factor) if x.shape[1] == 3 else x


def adjust_sharpness(x: Tensor, factor: Tensor) -> Tensor:
    """Scale the sharpness: factor 0 gives a smoothed image, 1 the image.

    The smoothing filter is 3 x 3, with five times the weight on its centre; border pixels are not changed.
    """
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = (box + 4 * x[:, :, 1:-1, 1:-1]) / 13
    return _blend(smooth, x, factor)


def adjust_hue(x: Tensor, factor: Tensor) -> Tensor:
    """Shift the hue by a factor in [-0.5, 0.5], as a fraction of the colour circle."""
    if x.shape[1] != 3:
        return x
    red, green, blue = x.unbind(1)
    value, chroma = x.amax(1), x.amax(1) - x.amin(1)
    divisor = chroma.masked_fill(chroma == 0, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turns = sixths / 6 + (1 + factor)[:, None, None]  # + 1 keeps it positive for frac
    # Closed form of the HSV-to-RGB conversion: how far each channel lies below the value, as a fraction of the chroma.
    below = torch.stack([2 - (6 * (turns + n / 6).frac() - 2).abs() for n in (5, 3, 1)], dim=1).clamp_(0, 1)
    return (value[:, None] - chroma[:, None] * below).clamp_(0, 1)


def posterize(x: Tensor, bits: int) -> Tensor:
    """Keep the `bits` highest bits of each 8-bit value."""
    step = 2 ** (8 - bits)
    return (x * 255).round_().div_(step).floor_().mul_(step / 255)


def solarize(x: Tensor, threshold: float) -> Tensor:
    """Invert the values at or above the threshold."""
    return torch.where(x >= threshold, 1 - x, x)


def autocontrast(x: Tensor) -> Tensor:
    """Stretch each channel to [0, 1]; constant channels are not changed."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    flat = low == high
    return ((x - low.masked_fill(flat, 0)) / (high - low).masked_fill(flat, 1)).clamp_(0, 1)


def equalize(x: Tensor) -> Tensor:
    """Equalize the histogram of each channel, on 8-bit values."""
    levels = (x * 255).round_().long().flatten(2)
    # Counts as floats are exact up to 2 ** 24 pixels, and their division is vectorised.
    histogram = x.new_zeros(*x.shape[:2], 256).scatter_add_(2, levels, torch.ones_like(levels, dtype=x.dtype))
    brightest = histogram.gather(2, levels.amax(2, keepdim=True))
    step = ((levels.shape[2] - brightest) / 255).floor()
    darker = histogram.cumsum(2) - histogram
    table = ((darker + (step / 2).floor()) / step.clamp_min(1)).floor_().clamp_(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=x.device, dtype=x.dtype), table)
    return (table / 255).gather(2, levels).view(x.shape)


def affine(x: Tensor, column: Place, row: Place) -> Tensor:
    """Apply an affine transformation with nearest-neighbour interpolation; pixels from outside the image are black.

    Output pixel (i, j), counted in columns and rows from the centre, is taken from column a i + b j + c for `column` (a, b, c);
    its row is computed from `row` in the same way.
    """
    n, _, h, w = x.shape
    across = torch.arange(w, device=x.device) - (w - 1) / 2
    down = (torch.arange(h, device=x.device) - (h - 1) / 2)[:, None]

    def place(of: Place) -> Tensor:
        a, b, c = (part.view(-1, 1, 1) if isinstance(part, Tensor) else part for part in of)
        return (a * across + b * down + c).expand(n, h, w)

    grid = torch.stack((place(column) * (2 / w), place(row) * (2 / h)), dim=3)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def take_pixels(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the pixels of x in the given rows N,h and columns N,w of each image, as N,C,h,w, with a single gather."""
    n, c, _, w = x.shape
    source = (rows[:, :, None] * w + columns[:, None, :]).view(n, 1, -1)
    return x.flatten(2).gather(2, source.expand(n, c, -1)).view(n, c, rows.shape[1], columns.shape[1])


def one_of(operations: Sequence[Callable[[Tensor], Tensor]], x: Tensor, generator: Generator) -> Tensor:
    """Apply a random operation to each image. Each operation gets an equal part of the batch, so that all shapes are fixed."""
    share = math.ceil(len(x) / len(operations))
    slots = torch.randperm(share * len(operations), generator=generator, device=x.device)
    parts = x[slots % len(x)].split(share)  # slots from len(x) on pad the parts: these copies are dropped below
    changed = torch.cat([operation(part) for operation, part in zip(operations, parts, strict=True)])
    return changed[slots.argsort()[: len(x)]]


def _column(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)


def _blend(degenerate: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(degenerate, x, _column(factor)).clamp_(0, 1)
