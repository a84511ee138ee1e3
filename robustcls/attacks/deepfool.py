"""DeepFool.

A sample leaves with its first adversarial example; foolbox stops moving it there. On four small networks on digits and 360
images, the distances are equal to foolbox's to four digits. Like foolbox, and unlike the paper, this adds 1e-4 to each step.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import Active, per_sample
from robustcls.attacks._nearest import lead, minimum_norm
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import misclassified, wrong_classes
from robustcls.core.threat import ThreatModel

STABLE = 1e-4  # added to each step


@minimum_norm("linf", "l2", positive=("steps",), least={"candidates": 2})
def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
    generator: Generator | None = None,
) -> Tensor:
    """Steps to the nearest linearised boundary (Moosavi-Dezfooli et al. 2015, arXiv:1511.04599).

    candidates: number of classes considered, those with the largest logits, including y. overshoot: by what share to step
    beyond the boundary.
    """
    with torch.no_grad():
        k = wrong_classes(model(x), y)[:, : candidates - 1]
    a = _Active(x, y, x, k=k, w=x, distance=torch.zeros_like(x[:, 0, 0, 0]), r=torch.zeros_like(x))
    result = x.clone()
    for step in range(steps + 1):
        logits, f, a.w = logits_and_gradient(model, a.x_adv, lead, a.y, a.k[:, 0])
        a.distance = f.abs() / threat.dual(a.w).clamp_min(1e-8)
        a.drop(misclassified(logits, a.y), into=result)
        if len(a) == 0 or step == steps:
            break
        for rank in range(1, a.k.shape[1]):
            _, f, w = logits_and_gradient(model, a.x_adv, lead, a.y, a.k[:, rank])
            distance = f.abs() / threat.dual(w).clamp_min(1e-8)
            nearer = distance < a.distance
            a.distance, a.w = torch.where(nearer, distance, a.distance), torch.where(per_sample(nearer), w, a.w)
        a.r = a.r + per_sample(a.distance + STABLE) * threat.steepest(a.w)
        a.x_adv = (a.x + (1 + overshoot) * a.r).clamp(0, 1)
    return result


@dataclass(kw_only=True)
class _Active(Active):
    """Names follow the paper: w is the gradient towards the nearest boundary, r the sum of the steps."""

    k: Tensor  # N,K, wrong classes
    w: Tensor
    distance: Tensor  # N, to the nearest boundary
    r: Tensor
