"""The universal perturbation: one change for all images."""

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._goal import Goal
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

MOST = 9.0  # a sample's loss counts up to here, so that none decides for all (the paper's beta)


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
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """One perturbation trained over all images by steps on random batches (Shafahi et al. 2018, arXiv:1811.11304).

    Each image with it is clipped to the box. step_size: in pixel values; 2.5 eps / steps unless given. batch_size: images of
    a step. target: N target classes. Raises InputError.
    """
    if steps < 1 or batch_size < 1 or (step_size is not None and step_size <= 0):
        raise InputError(
            f"universal(steps={steps}, step_size={step_size}, batch_size={batch_size}): give 1 step or more of a size above "
            "0, on batches of 1 or more"
        )
    step_size = threat.default_step(steps) if step_size is None else step_size
    goal, grey = Goal.of(y, target), torch.full_like(x[:1], 0.5)
    delta = torch.zeros_like(grey)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels).clamp_max(MOST) if not goal.targeted else -cross_entropy(logits, labels)

    for _ in range(steps):
        rows = torch.randperm(len(x), device=x.device, generator=generator)[:batch_size]
        images = (x[rows] + delta).clamp(0, 1)
        grad = input_gradient(model, images, goal.labels[rows], loss).sum(0, keepdim=True)
        delta = threat.project(grey + delta + step_size * threat.steepest(grad), grey) - grey
    return torch.cat([threat.project(part + delta, part) for part in x.split(batch_size)])
