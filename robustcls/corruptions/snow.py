"""Snow."""

import torch
from torch import Generator, Tensor

from robustcls.corruptions._motion import angles, move
from robustcls.corruptions._severity import strength
from robustcls.corruptions._zooming import enlarge

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def snow(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Bleaches the image and adds flakes: enlarged noise above a threshold, moved downwards, and the same upside down."""
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
