"""Contrast: less of it."""

from torch import Generator, Tensor

from robustcls.corruptions._severity import strength


def contrast(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Draws every value towards the mean of its channel over the image; nothing is random."""
    factor = strength(x, severity, small=(0.75, 0.5, 0.4, 0.3, 0.15), large=(0.4, 0.3, 0.2, 0.1, 0.05))
    mean = x.mean((2, 3), keepdim=True)
    return ((x - mean) * factor + mean).clamp(0, 1)
