"""What an image is compared with: the absence of evidence."""

from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["black", "mean", "blur"]


def baseline_of(x: Tensor, baseline: Baseline) -> Tensor:
    """Images without evidence, N,C,H,W in [0, 1].

    `black` is 0 in pixel space, which is not 0 behind the normalisation: that would be the mean colour. `mean` is each
    image's own mean colour. `blur` is the image under a Gaussian whose sigma is an eighth of the shorter side.
    """
    if baseline == "black":
        return torch.zeros_like(x)
    if baseline == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    from torchvision.transforms.functional import gaussian_blur

    sigma = min(x.shape[2:]) / 8
    radius = int(3 * sigma)  # always below the side, as the reflecting border needs
    return gaussian_blur(x, [2 * radius + 1] * 2, [sigma] * 2)


def baselines_of(x: Tensor, background: Tensor | None) -> Tensor:
    """The distribution of baselines for one image 1,C,H,W: the background, or else its own black, mean and blur."""
    if background is not None:
        return background
    return torch.cat([baseline_of(x, kind) for kind in ("black", "mean", "blur")])
