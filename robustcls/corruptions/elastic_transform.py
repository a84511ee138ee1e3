"""Elastic transform: a rubber sheet."""

import torch
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor
from torch.nn import functional as F

from robustcls.corruptions._severity import is_large, strength


def elastic_transform(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """A random affine map, then a smooth random displacement of every pixel (Simard et al. 2003); bilinear.

    Lengths are shares of the shorter side; those of ImageNet-C were published for 244 pixels, on images of 224.
    """
    stretch, smooth, corner = strength(
        x,
        severity,
        small=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        large=((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    )
    side = min(x.shape[2:]) * (244 / 224 if is_large(x) else 1)
    n, _, h, w = x.shape
    grid = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), dim=-1).float()
    affine = affine_maps(x, corner * side, generator)[:, None]
    skewed = sample(x, grid @ affine[:, :, :2] + affine[:, :, 2:], on_centres=True)
    moved = displacement(n, h, w, stretch * side, smooth * side, generator)
    return sample(skewed, grid + moved, on_centres=False).clamp(0, 1)


def displacement(n: int, h: int, w: int, stretch: float, smooth: float, generator: Generator) -> Tensor:
    """N,H,W,2 in pixels, right and down: noise from [-1, 1], smoothed by a Gaussian, times `stretch`."""
    noise = 2 * torch.rand(2, n, h, w, generator=generator) - 1
    smoothed = gaussian_filter(noise.numpy(), (0, 0, smooth, smooth), mode="reflect", truncate=3)
    return stretch * torch.from_numpy(smoothed).permute(1, 2, 3, 0)


def affine_maps(x: Tensor, reach: float, generator: Generator) -> Tensor:
    """N,3,2: from a pixel (x, y, 1) of the result to one of x. Three corners of a square move by up to `reach` pixels."""
    n, _, h, w = x.shape
    centre, half = torch.tensor([w // 2, h // 2]), min(h, w) // 3
    corners = (centre + half * torch.tensor([[1, 1], [1, -1], [-1, -1]])).double().expand(n, 3, 2)
    moved = corners + reach * (2 * torch.rand(n, 3, 2, generator=generator) - 1)
    return torch.linalg.solve(torch.cat([moved, torch.ones(n, 3, 1)], dim=2), corners).float()


def sample(x: Tensor, at: Tensor, *, on_centres: bool) -> Tensor:
    """x at positions N,H,W,2 (right and down, in pixels), mirrored at the centres of its border pixels or at their edges."""
    size = torch.tensor([x.shape[3], x.shape[2]])
    grid = 2 * at / (size - 1) - 1 if on_centres else (2 * at + 1) / size - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=on_centres)
