"""Defocus blur: a lens out of focus."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from robustcls.corruptions._severity import strength


def defocus_blur(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Convolves with a disk whose edge is softened; draws nothing."""
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
    """A disk, blurred by a Gaussian of deviation `softness` cut at 3x3, or at 5x5 beyond radius 8, without empty margins.

    As published on a grid that ends at 8, or at a larger radius, and is mirrored there: such a disk sums to 1 but nearly.
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
