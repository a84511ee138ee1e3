"""Motion in a line, as ImageMagick blurs, without ImageMagick."""

import torch
from torch import Tensor


def move(x: Tensor, radius: int, deviation: float, degrees: Tensor) -> Tensor:
    """Every pixel becomes a mean of those on a ray of 2 radius + 1 pixels, itself first, with falling Gaussian weights.

    x: N,C,H,W; degrees: N, of the ray, clockwise from the right. What lies outside takes the nearest border pixel.
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
    """n degrees, drawn evenly from low to high."""
    return low + (high - low) * torch.rand(n, generator=generator)
