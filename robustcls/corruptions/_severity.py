"""The published constants of severities 1 to 5, by image size."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from robustcls.core.errors import InputError

T = TypeVar("T")
SEVERITIES = (1, 2, 3, 4, 5)
LARGE = 128  # pixels of the shorter side from which the constants of ImageNet-C are used; below, those of CIFAR-10-C
SMALLEST = 8


def strength(x: Tensor, severity: int, *, small: Sequence[T], large: Sequence[T]) -> T:
    """Return the published constant of a severity. Raises InputError.

    small, large: the five constants of CIFAR-10-C and of ImageNet-C.
    """
    if severity not in SEVERITIES:
        raise InputError(f"severity {severity} of a corruption: give a whole number from 1 to 5")
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < SMALLEST:
        raise InputError(
            f"images of shape {tuple(x.shape)}: corruptions are defined for N,C,H,W with 1 or 3 channels and at least "
            f"{SMALLEST}x{SMALLEST} pixels"
        )
    return (large if is_large(x) else small)[severity - 1]


def is_large(x: Tensor) -> bool:
    """Whether the constants of ImageNet-C are used."""
    return min(x.shape[2:]) >= LARGE
