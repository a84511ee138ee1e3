"""A patch of another image pasted, and the labels mixed."""

import torch
from torch import Generator, Tensor

from robustcls.data.augment import box, in_format_of
from robustcls.data.augmentations.mixup import beta


def cutmix(x: Tensor, y: Tensor, generator: Generator, *, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """A patch of another image pasted over each, its share 1 - lambda ~ Beta(alpha, alpha) (arXiv:1905.04899).

    y: probabilities N,K, mixed by the share of pixels that the patch, cut off at the border, really covers; every sample
    draws its own patch (Yun et al. 2019).
    """
    n, _, h, w = x.shape
    side = (1 - beta(alpha, n, generator, x.device)).sqrt()
    row = torch.randint(h, (n,), generator=generator, device=x.device)
    column = torch.randint(w, (n,), generator=generator, device=x.device)
    other = torch.randperm(n, generator=generator, device=x.device)
    tall, wide = (side * h / 2).floor(), (side * w / 2).floor()
    patch = box(x, row - tall, row + tall, column - wide, column + wide)
    share = patch.to(y.dtype).mean((1, 2, 3))
    return in_format_of(x, torch.where(patch, x[other], x)), torch.lerp(y, y[other], share[:, None])
