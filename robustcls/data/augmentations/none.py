"""No augmentation."""

from torch import Generator, Tensor


def none(x: Tensor, generator: Generator, *, flip: bool = True) -> Tensor:
    """The images as they are."""
    return x
