"""The attack of Carlini and Wagner.

Differences from foolbox: the search for the constant runs on tensors, and runs of Adam are never aborted early, since foolbox
decides that by the loss summed over the batch. On four small networks on digits and 360 images, mean distances are equal to
three digits.
"""

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import per_sample
from robustcls.attacks._goal import Goal
from robustcls.attacks._nearest import Nearest, lead, minimum_norm
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import ATTACK_TIE, tie_scale
from robustcls.core.threat import ThreatModel

BETA_1, BETA_2 = 0.9, 0.999  # Adam is written out here, because a step of torch.optim first imports for about a second


@minimum_norm("l2", positive=("steps", "initial_const", "binary_search_steps", "step_size"), least={"confidence": 0})
def cw(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    confidence: float = 0.0,
    initial_const: float = 1e-3,
    binary_search_steps: int = 9,
    step_size: float = 0.05,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Minimise squared distance plus a constant times the margin loss (Carlini and Wagner 2016, arXiv:1608.04644).

    The optimiser is Adam. confidence: the margin that an adversarial example must have. initial_const: where the binary search
    for the constant begins. target: N target classes.
    """
    goal, aims = Goal.of(y, target), target is not None

    def hinge(logits: Tensor, labels: Tensor) -> Tensor:
        return (lead(logits, labels, targeted=aims) - confidence).clamp_max(0)

    nearest = Nearest(x, goal.labels, threat, targeted=aims)
    w_0 = (0.999999 * (2 * x - 1)).atanh()
    x_0 = _to_box(w_0)  # x, up to rounding
    c = torch.full_like(x[:, 0, 0, 0], initial_const, dtype=torch.float64)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for _ in range(binary_search_steps):
        w, succeeded = w_0, torch.zeros_like(y, dtype=torch.bool)
        mean, square = torch.zeros_like(w), torch.zeros_like(w)
        for step in range(1, steps + 1):
            x_adv = _to_box(w)
            logits, _, grad = logits_and_gradient(model, x_adv, hinge, goal.labels)
            ahead = goal.closeness(logits, goal.labels) - confidence
            far_enough = ahead > ATTACK_TIE * tie_scale(logits, goal.labels)
            succeeded |= nearest.keep(x_adv, far_enough)
            descent = 2 * (x_adv - x_0) - per_sample(c.to(x.dtype)) * grad
            descent = descent * 2 * x_adv * (1 - x_adv)  # chain rule: the derivative of (1 + tanh(w)) / 2
            mean, square = mean.lerp(descent, 1 - BETA_1), square.lerp(descent.square(), 1 - BETA_2)
            size = (square / (1 - BETA_2**step)).sqrt() + 1e-8
            w = w - step_size * mean / (1 - BETA_1**step) / size
        high, low = torch.where(succeeded, c, high), torch.where(succeeded, low, c)
        c = torch.where(high.isinf(), 10 * c, (low + high) / 2)
    return nearest.x_adv


def _to_box(w: Tensor) -> Tensor:
    return (w.tanh() + 1) / 2
