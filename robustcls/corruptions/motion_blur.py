"""Motion blur: the camera moves."""

from torch import Generator, Tensor

from robustcls.corruptions._motion import angles, move
from robustcls.corruptions._severity import strength


def motion_blur(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Blurs along a line, at an angle from -45 to 45 degrees that is drawn for each image."""
    radius, deviation = strength(
        x,
        severity,
        small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    )
    return move(x, radius, deviation, angles(len(x), -45, 45, generator)).clamp(0, 1)
