"""Digital: contrast, elastic transform, pixelation, JPEG compression."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor
from torch.nn import functional as F

from robustcls.corruptions._severity import is_large, strength

__all__ = ["contrast", "elastic_transform", "jpeg_compression", "pixelate"]


def contrast(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Moves every value towards its channel's mean over the image; deterministic."""
    factor = strength(x, severity, small=(0.75, 0.5, 0.4, 0.3, 0.15), large=(0.4, 0.3, 0.2, 0.1, 0.05))
    mean = x.mean((2, 3), keepdim=True)
    return ((x - mean) * factor + mean).clamp(0, 1)


def elastic_transform(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """A random affine map, then a smooth random displacement field (Simard et al. 2003), with bilinear interpolation.

    Lengths are fractions of the shorter side. Those of ImageNet-C were published for 244 pixels, although its images have 224.
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
    """Return displacements N,H,W,2 in pixels, right and down: uniform noise in [-1, 1], Gaussian-smoothed, times `stretch`."""
    noise = 2 * torch.rand(2, n, h, w, generator=generator) - 1
    smoothed = gaussian_filter(noise.numpy(), (0, 0, smooth, smooth), mode="reflect", truncate=3)
    return stretch * torch.from_numpy(smoothed).permute(1, 2, 3, 0)


def affine_maps(x: Tensor, reach: float, generator: Generator) -> Tensor:
    """Return affine maps N,3,2 from a pixel (x, y, 1) of the result to one of x.

    They move three corners of a square by up to `reach` pixels.
    """
    n, _, h, w = x.shape
    centre, half = torch.tensor([w // 2, h // 2]), min(h, w) // 3
    corners = (centre + half * torch.tensor([[1, 1], [1, -1], [-1, -1]])).double().expand(n, 3, 2)
    moved = corners + reach * (2 * torch.rand(n, 3, 2, generator=generator) - 1)
    return torch.linalg.solve(torch.cat([moved, torch.ones(n, 3, 1)], dim=2), corners).float()


def sample(x: Tensor, at: Tensor, *, on_centres: bool) -> Tensor:
    """Sample x bilinearly at positions N,H,W,2 (right and down, in pixels).

    Images are mirrored at the centres of their border pixels, or at the edges of these.
    """
    size = torch.tensor([x.shape[3], x.shape[2]])
    grid = 2 * at / (size - 1) - 1 if on_centres else (2 * at + 1) / size - 1
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=on_centres)


def pixelate(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Downsamples by box averages and upsamples again; deterministic."""
    share = strength(x, severity, small=(0.95, 0.9, 0.85, 0.75, 0.65), large=(0.6, 0.5, 0.4, 0.3, 0.25))

    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = Image.Resampling.BOX
        return image.resize((int(width * share), int(height * share)), box).resize((width, height), box)

    return through_pillow(x, change)


def jpeg_compression(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Encodes as JPEG of low quality and decodes; deterministic."""
    quality = strength(x, severity, small=(80, 65, 58, 50, 40), large=(25, 18, 15, 10, 7))

    def change(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return through_pillow(x, change)


def through_pillow(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Round each image of x (N,C,H,W) to 8 bits and pass it through `change`, which keeps its size."""
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    changed = np.stack(
        [np.asarray(change(Image.fromarray(one.squeeze(2) if one.shape[2] == 1 else one))) for one in pixels]
    )
    return torch.from_numpy(changed.reshape(pixels.shape)).permute(0, 3, 1, 2).to(x.dtype).contiguous() / 255
