"""Weather: snow, frost, fog, brightness."""

import torch
from torch import Generator, Tensor

from robustcls.corruptions._severity import strength
from robustcls.corruptions.blur import angles, enlarge, move

__all__ = ["brightness", "fog", "frost", "snow"]


LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def snow(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Whitens the image and adds flakes: enlarged noise above a threshold with motion blur, and the same turned by 180°."""
    mean, deviation, zoom, threshold, radius, spread, keep = strength(
        x,
        severity,
        small=(
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        large=(
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    )
    n, channels, h, w = x.shape
    flakes = enlarge(mean + deviation * torch.randn(n, 1, h, w, generator=generator), zoom)
    flakes = torch.where(flakes < threshold, torch.zeros_like(flakes), flakes).clamp(0, 1)
    flakes = move(flakes, int(radius), spread, angles(n, -135, -45, generator))
    grey = (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) if channels == 3 else x
    bleached = keep * x + (1 - keep) * torch.maximum(x, 1.5 * grey + 0.5)
    return (bleached + flakes + flakes.flip(2, 3)).clamp(0, 1)


TINT = (0.85, 0.95, 1.0)  # colour of ice: red, green, blue


def frost(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Adds a weighted texture of ice to the weighted image, clipped to [0, 1].

    The published version uses crops of six photographs, which this package does not contain: `ice` generates a texture instead.
    """
    keep, cover = strength(
        x,
        severity,
        small=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        large=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    )
    return (keep * x + cover * ice(x, generator)).clamp(0, 1)


def ice(x: Tensor, generator: Generator) -> Tensor:
    """Return an ice texture in the shape of each image: crystals where a rough height map crosses half its height, and a haze.

    crystals = (1 - |2 rough - 1|)^2 and haze = smooth are plasma fractals of decay 1.6 and 2.5; the texture is
    0.6 crystals + 0.4 haze, tinted TINT in RGB.
    """
    n, channels, h, w = x.shape
    rough, haze = (plasma(n, h, w, decay, generator) for decay in (1.6, 2.5))
    texture = 0.6 * (1 - (2 * rough - 1).abs()) ** 2 + 0.4 * haze
    return texture * torch.tensor(TINT).view(1, 3, 1, 1) if channels == 3 else texture


def fog(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Adds a plasma fractal and rescales, so that the brightest value of the image stays the same."""
    density, decay = strength(
        x,
        severity,
        small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        large=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    )
    brightest = x.amax((1, 2, 3), keepdim=True)
    n, _, h, w = x.shape
    cloud = density * plasma(n, h, w, decay, generator)
    return ((x + cloud) * brightest / (brightest + density)).clamp(0, 1)


def brightness(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Raises the value of HSV, the largest channel, at the same hue and saturation; deterministic."""
    rise = strength(x, severity, small=(0.05, 0.1, 0.15, 0.2, 0.3), large=(0.1, 0.2, 0.3, 0.4, 0.5))
    value = x.amax(1, keepdim=True)
    raised = (value + rise).clamp(0, 1)
    # Constant hue and saturation mean that all channels are scaled by the same factor. Black has neither, and becomes grey.
    return torch.where(value > 0, x * (raised / value.clamp_min(1e-12)), raised).clamp(0, 1)


def plasma(n: int, h: int, w: int, decay: float, generator: Generator) -> Tensor:
    """Return n height maps (N,1,H,W) of the diamond-square algorithm, cropped from squares that are scaled to [0, 1].

    Fournier, Fussell and Carpenter 1982. decay: factor by which the roughness decreases from scale to scale.
    """
    side = 1 << (max(h, w, 2) - 1).bit_length()
    height = torch.zeros(n, side, side)
    step, roughness = side, 100.0

    def jitter(total: Tensor) -> Tensor:
        return total / 4 + roughness**2 * (2 * torch.rand(total.shape, generator=generator) - 1)

    while step >= 2:
        half = step // 2
        corners = height[:, ::step, ::step]
        across = corners + corners.roll(-1, 1)
        centres = jitter(across + across.roll(-1, 2))
        height[:, half::step, half::step] = centres
        height[:, ::step, half::step] = jitter(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        height[:, half::step, ::step] = jitter(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, roughness = half, roughness / decay
    height = height - height.amin((1, 2), keepdim=True)
    height = height / height.amax((1, 2), keepdim=True)
    return height[:, None, :h, :w]
