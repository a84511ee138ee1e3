"""No augmentation."""

from torch import Generator, Tensor


def none(x: Tensor, generator: Generator, *, flip: bool = True) -> Tensor:
    """Return the images unchanged."""
    return x
