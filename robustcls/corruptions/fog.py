"""Fog."""

from torch import Generator, Tensor

from robustcls.corruptions._fractal import plasma
from robustcls.corruptions._severity import strength


def fog(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Adds a cloud, and scales so that the brightest value of the image stays what it was."""
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
