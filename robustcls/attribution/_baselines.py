"""Baselines: images without evidence, with which an image is compared."""

from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["black", "mean", "blur"]


def baseline_of(x: Tensor, baseline: Baseline) -> Tensor:
    """Return the baseline of each image, N,C,H,W in [0, 1].

    `black` is 0 in pixel space; 0 after normalisation would be the mean colour of the data. `mean` is each image's own mean
    colour. `blur` is the image blurred by a Gaussian whose sigma is an eighth of the shorter side.
    """
    if baseline == "black":
        return torch.zeros_like(x)
    if baseline == "mean":
        return x.mean((2, 3), keepdim=True).expand_as(x)
    from torchvision.transforms.functional import gaussian_blur

    sigma = min(x.shape[2:]) / 8
    radius = int(3 * sigma)  # always smaller than the side, as reflection padding requires
    return gaussian_blur(x, [2 * radius + 1] * 2, [sigma] * 2)


def baselines_of(x: Tensor, background: Tensor | None) -> Tensor:
    """Return the baselines for one image 1,C,H,W: the background, or the image's own black, mean and blur."""
    if background is not None:
        return background
    return torch.cat([baseline_of(x, kind) for kind in ("black", "mean", "blur")])
