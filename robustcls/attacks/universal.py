"""The universal perturbation: one perturbation for all images."""

import torch
from torch import Generator, Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

MOST = 9.0  # the loss of a sample is clipped here, so that no single sample dominates (beta in the paper)


@traits(universal=True, mask=True)
def universal(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 200,
    step_size: float | None = None,
    batch_size: int = 32,
    generator: Generator | None = None,
) -> Tensor:
    """One perturbation trained on all images by steps on random batches (Shafahi et al. 2018, arXiv:1811.11304).

    The perturbed images are clipped to the box. step_size: in pixel values; 2.5 eps / steps by default. batch_size: number of
    images per step. Raises InputError for wrong options.
    """
    if steps < 1 or batch_size < 1 or (step_size is not None and step_size <= 0):
        raise InputError(
            f"universal(steps={steps}, step_size={step_size}, batch_size={batch_size}): give 1 step or more of a size above "
            "0, on batches of 1 or more"
        )
    step_size = threat.default_step(steps) if step_size is None else step_size
    grey = torch.full_like(x[:1], 0.5)
    delta = torch.zeros_like(grey)
    for _ in range(steps):
        rows = torch.randperm(len(x), device=x.device, generator=generator)[:batch_size]
        images = (x[rows] + delta).clamp(0, 1)
        grad = input_gradient(model, images, y[rows], _bounded).sum(0, keepdim=True)
        delta = threat.project(grey + delta + step_size * threat.steepest(grad), grey) - grey
    return torch.cat([threat.project(part + delta, part) for part in x.split(batch_size)])


def _bounded(logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits, y).clamp_max(MOST)
