"""Cutout: a square of one value."""

import torch
from torch import Generator, Tensor

from robustcls.core.errors import InputError
from robustcls.data.augment import box, in_format_of


def cutout(x: Tensor, generator: Generator, *, size: int = 8, value: float = 0.0) -> Tensor:
    """Set a square of `size` by `size` pixels around a random centre to `value` (DeVries and Taylor 2017, arXiv:1708.04552).

    The square is cut off at the border. `value` 0 is black; the paper uses the mean of the data set, about 0.5.
    """
    if size < 1 or not 0 <= value <= 1:
        raise InputError(f"cutout: size={size}, value={value}: give a size from 1 and a value in [0, 1]")
    n, _, h, w = x.shape
    top = torch.randint(h, (n,), generator=generator, device=x.device) - size // 2
    left = torch.randint(w, (n,), generator=generator, device=x.device) - size // 2
    return in_format_of(x, x.masked_fill(box(x, top, top + size, left, left + size), value))
