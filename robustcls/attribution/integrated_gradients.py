"""Integrated gradients: the change of the logit from a baseline to the image, attributed to the pixels."""

from typing import Literal

import torch
from torch import Tensor, nn

from robustcls.attribution._baselines import baseline_of
from robustcls.attribution._batches import images_per_pass
from robustcls.core.errors import InputError


def integrated_gradients(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    steps: int = 50,
    baseline: Literal["black", "mean", "blur"] = "black",
    internal_batch_size: int | None = None,
) -> Tensor:
    """Mean gradient on the line from a baseline, times the difference (Sundararajan et al. 2017, arXiv:1703.01365): N,C,H,W.

    x: N,C,H,W in [0, 1]; target: N. Signed, in logits: a map adds up to logit(x) - logit(baseline) as the steps
    (Gauss-Legendre points) grow. baseline: see `baseline_of`; pixels equal to it get 0, so with `black` dark pixels never
    count. internal_batch_size: images per pass; None chooses by their size. Raises InputError if either is below 1.
    """
    from captum.attr import IntegratedGradients

    if steps < 1:
        raise InputError(f"integrated_gradients: steps={steps} is not positive: give 1 or more, 50 is usual")
    if internal_batch_size is not None and internal_batch_size < 1:
        raise InputError(
            f"integrated_gradients: internal_batch_size={internal_batch_size} is not positive: give 1 or more"
        )
    size = internal_batch_size or images_per_pass(x)
    method = IntegratedGradients(model)
    # Captum only splits the steps into batches of this size, so the images are split here.
    maps = [
        method.attribute(part, start, classes, n_steps=steps, internal_batch_size=size).detach()
        for part, start, classes in zip(
            x.detach().split(size), baseline_of(x.detach(), baseline).split(size), target.split(size), strict=True
        )
    ]
    return torch.cat(maps)


def origin(
    x: Tensor, *, steps: int, baseline: Literal["black", "mean", "blur"], internal_batch_size: int | None
) -> Tensor:
    return baseline_of(x, baseline)


def note(model: nn.Module, x: Tensor, *, steps: int, baseline: str, internal_batch_size: int | None) -> str:
    return f"baseline {baseline}, {steps} steps"
