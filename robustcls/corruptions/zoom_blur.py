"""Zoom blur: the camera moves towards the scene."""

import numpy as np
from torch import Generator, Tensor

from robustcls.corruptions._severity import strength
from robustcls.corruptions._zooming import enlarge


def zoom_blur(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """The mean of the image and its enlargements by factors from 1 upwards; draws nothing."""
    stop, step = strength(
        x,
        severity,
        small=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        large=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    )
    # numpy's arange decides by rounding whether the end is one of the factors: in the published images it sometimes is.
    factors = np.arange(1, stop, step)
    enlarged = sum((enlarge(x, float(factor)) for factor in factors), x)
    return (enlarged / (len(factors) + 1)).clamp(0, 1)
