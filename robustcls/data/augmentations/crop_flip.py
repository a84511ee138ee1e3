"""Random crop and horizontal flip."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from robustcls.core.errors import InputError
from robustcls.data.augment import coins, in_format_of
from robustcls.data.augmentations._functional import take_pixels


def crop_flip(x: Tensor, generator: Generator, *, pad: int = 4, flip: bool = True) -> Tensor:
    """Random crop of the image padded with `pad` black pixels on each side, and a horizontal flip with probability 1/2."""
    if pad < 0:
        raise InputError(f"crop_flip: pad={pad} is negative: give the number of pixels to add on each side")
    n, _, h, w = x.shape
    top, left = torch.randint(2 * pad + 1, (2, n, 1), generator=generator, device=x.device)
    mirrored = coins(n, flip, x, generator)[:, None]
    rows = top + torch.arange(h, device=x.device)
    columns = torch.arange(w, device=x.device)
    columns = left + torch.where(mirrored, w - 1 - columns, columns)
    return in_format_of(x, take_pixels(F.pad(x, (pad, pad, pad, pad)), rows, columns))
