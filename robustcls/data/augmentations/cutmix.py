"""CutMix: a patch of another image is pasted, and the labels are mixed."""

import torch
from torch import Generator, Tensor

from robustcls.data.augment import box, in_format_of
from robustcls.data.augmentations.mixup import beta


def cutmix(x: Tensor, y: Tensor, generator: Generator, *, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Paste a patch of another image; its area is a fraction 1 - lambda, lambda ~ Beta(alpha, alpha) (arXiv:1905.04899).

    Yun et al. 2019; every sample draws its own patch. y: probabilities N,K. They are mixed by the fraction of pixels that the
    patch covers after it is cut off at the border.
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
