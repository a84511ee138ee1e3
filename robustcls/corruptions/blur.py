"""Blur: defocus, frosted glass, camera motion, zoom."""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor
from torch.nn import functional as F

from robustcls.corruptions._severity import strength

__all__ = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"]


def defocus_blur(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Convolves with a disk whose edge is smoothed; deterministic."""
    radius, softness = strength(
        x,
        severity,
        small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    )
    kernel = disk(radius, softness)
    reach = len(kernel) // 2
    padded = F.pad(x, (reach,) * 4, mode="reflect")
    blurred = F.conv2d(padded.flatten(0, 1)[:, None], kernel.to(x.dtype)[None, None])
    return blurred.view(x.shape).clamp(0, 1)


def disk(radius: float, softness: float) -> Tensor:
    """Return a disk blurred by a Gaussian of standard deviation `softness`, without empty margins.

    The Gaussian is cut to 3x3, or to 5x5 for a radius above 8. As published, the grid ends at 8, or at a larger radius, and has
    reflected borders. The values of such a disk sum only approximately to 1.
    """
    cut, reach = (1, 8) if radius <= 8 else (2, int(radius))
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    inside = (at[:, None] ** 2 + at**2 <= radius**2).double()
    near = torch.arange(-cut, cut + 1, dtype=torch.float64)
    bell = torch.exp(-(near**2) / (2 * softness**2))
    bell = bell / bell.sum()
    mirrored = F.pad((inside / inside.sum())[None, None], (cut,) * 4, mode="reflect")
    blurred = F.conv2d(mirrored, torch.outer(bell, bell)[None, None])[0, 0]
    margin = int(blurred.any(0).nonzero()[0])
    return blurred[margin : len(blurred) - margin, margin : len(blurred) - margin]


def glass_blur(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Blurs, replaces every pixel by a random neighbour, and blurs again.

    The published code intends to swap two pixels, but overwrites one with the other; this function does the same.
    """
    deviation, reach, rounds = strength(
        x,
        severity,
        small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        large=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    )
    n, _, h, w = x.shape
    blurred = _blur(x, deviation)
    for _ in range(rounds):
        rows = h - reach - torch.arange(h - 2 * reach)  # from last to first, as published
        columns = w - reach - torch.arange(w - 2 * reach)
        shift = torch.randint(-reach, reach, (2, n, len(rows), len(columns)), generator=generator)
        source = sources(h, w, rows, columns, shift)
        blurred = blurred.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view(x.shape)
    return _blur(blurred, deviation).clamp(0, 1)


def sources(h: int, w: int, rows: Tensor, columns: Tensor, shift: Tensor) -> Tensor:
    """Return, for each pixel, the pixel whose value it has after all pixels copied a neighbour one after the other: N,H*W.

    rows, columns: the pixels that are visited, in this order, row by row. shift: 2,N,rows,columns, offsets to the neighbour, in
    pixels.
    """
    n, size = shift.shape[1], h * w
    taker = (rows[:, None] * w + columns).flatten()
    giver = ((rows[:, None] + shift[0]) * w + columns + shift[1]).flatten(1)
    turn = torch.full((size,), size)
    turn[taker] = torch.arange(len(taker))
    # Each pixel points to the neighbour that it copies. Where that neighbour is visited later, it points to the neighbour's
    # old value, whose index is larger by `size`.
    points = torch.arange(2 * size).repeat(n, 1)
    points[:, :size] += size
    points[:, taker] = torch.where(turn[giver] < turn[taker], giver, giver + size)
    while (points[:, :size] < size).any():
        points = points.gather(1, points)
    return points[:, :size] - size


def _blur(x: Tensor, deviation: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, deviation, deviation), mode="nearest"))


def motion_blur(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Blurs along a line, at an angle drawn for each image from -45 to 45 degrees."""
    radius, deviation = strength(
        x,
        severity,
        small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    )
    return move(x, radius, deviation, angles(len(x), -45, 45, generator)).clamp(0, 1)


def zoom_blur(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Averages the image and its enlargements by factors from 1 upwards; deterministic."""
    stop, step = strength(
        x,
        severity,
        small=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        large=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    )
    # Whether the end is one of the factors depends on rounding in numpy's arange; for the published images it sometimes is.
    factors = np.arange(1, stop, step)
    enlarged = sum((enlarge(x, float(factor)) for factor in factors), x)
    return (enlarged / (len(factors) + 1)).clamp(0, 1)


def move(x: Tensor, radius: int, deviation: float, degrees: Tensor) -> Tensor:
    """Replace each pixel by a weighted mean along a ray of 2 radius + 1 pixels that starts at it, with Gaussian weights.

    x: N,C,H,W. degrees: N, angle of the ray, clockwise from the right. Borders are replicated.
    Source: ImageMagick's MotionBlurImage, which the published corruptions call.
    """
    n, _, h, w = x.shape
    steps = torch.arange(2 * radius + 1)
    weights = torch.exp(-(steps**2) / (2 * deviation**2))
    weights = weights / weights.sum()
    angle = degrees.double().deg2rad()[:, None]
    right, down = (torch.ceil(steps * part - 0.5).long() for part in (angle.cos(), angle.sin()))
    channels_last = x.permute(0, 2, 3, 1)
    image = torch.arange(n)[:, None, None]
    moved = torch.zeros_like(channels_last)
    for step, weight in enumerate(weights):
        row = (torch.arange(h) + down[:, step, None]).clamp(0, h - 1)[:, :, None]
        column = (torch.arange(w) + right[:, step, None]).clamp(0, w - 1)[:, None, :]
        moved += weight * channels_last[image, row, column]
    return moved.permute(0, 3, 1, 2).contiguous()


def angles(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw n angles in degrees, uniformly from low to high."""
    return low + (high - low) * torch.rand(n, generator=generator)


def enlarge(x: Tensor, factor: float) -> Tensor:
    """Return the centre of each image, enlarged bilinearly by `factor` and cropped to the size of x."""
    h, w = x.shape[2:]
    crop_h, crop_w = math.ceil(h / factor), math.ceil(w / factor)
    top, left = (h - crop_h) // 2, (w - crop_w) // 2
    crop = x[:, :, top : top + crop_h, left : left + crop_w]
    size = (round(crop_h * factor), round(crop_w * factor))
    large = F.interpolate(crop, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return large[:, :, top : top + h, left : left + w]
