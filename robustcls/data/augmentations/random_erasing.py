"""Random erasing of a rectangle."""

import math

import torch
from torch import Generator, Tensor

from robustcls.core.errors import InputError
from robustcls.data.augment import box, in_format_of

ATTEMPTS = 10  # torchvision's: draws until a rectangle fits


def random_erasing(
    x: Tensor,
    generator: Generator,
    *,
    p: float = 0.5,
    min_scale: float = 0.02,
    max_scale: float = 0.33,
    min_ratio: float = 0.3,
    max_ratio: float = 3.3,
    value: float = 0.0,
) -> Tensor:
    """Set a random rectangle to `value` with probability p (Zhong et al. 2017, arXiv:1708.04896; drawn as in torchvision).

    Its scale is its fraction of the image's area, its ratio its height divided by its width.
    """
    if not (0 <= p <= 1 and 0 <= value <= 1 and 0 <= min_scale <= max_scale <= 1):
        raise InputError("random_erasing: p, value and min_scale <= max_scale must lie in [0, 1]")
    if not 0 < min_ratio <= max_ratio < math.inf:
        raise InputError("random_erasing: ratios must be positive, with min_ratio <= max_ratio")
    n, _, h, w = x.shape
    happens, row, column = torch.rand(3, n, generator=generator, device=x.device)
    scale, ratio = torch.rand(2, ATTEMPTS, n, generator=generator, device=x.device)
    area = h * w * (min_scale + (max_scale - min_scale) * scale)
    ratio = torch.exp(math.log(min_ratio) + math.log(max_ratio / min_ratio) * ratio)
    height, width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (height < h) & (width < w)
    first = fits.int().argmax(0, keepdim=True)
    height, width = height.gather(0, first)[0], width.gather(0, first)[0]
    top, left = (row * (h - height + 1)).floor(), (column * (w - width + 1)).floor()
    erased = box(x, top, top + height, left, left + width) & ((happens < p) & fits.any(0)).view(n, 1, 1, 1)
    return in_format_of(x, x.masked_fill(erased, value))
