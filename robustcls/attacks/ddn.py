"""Decoupled direction and norm (DDN).

The steps are those of foolbox: on four small networks on digits and 360 images, the distances are equal to four digits.
"""

import math

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import per_sample
from robustcls.attacks._goal import Goal
from robustcls.attacks._nearest import Nearest, minimum_norm
from robustcls.core.draws import Draws, take
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.threat import ThreatModel


@minimum_norm("l2", positive=("steps", "init_epsilon", "gamma"))
def ddn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    init_epsilon: float = 1.0,
    gamma: float = 0.05,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Decoupled direction and norm (Rony et al. 2018, arXiv:1811.09600).

    init_epsilon: the first radius. gamma: the share by which the radius shrinks or grows at every step.
    target: N target classes.
    """
    goal = Goal.of(y, target)
    nearest, x_adv = Nearest(x, goal.labels, threat, targeted=goal.targeted), x
    farthest = threat.distance(torch.maximum(x, 1 - x), torch.zeros_like(x))
    eps = torch.full_like(farthest, init_epsilon)
    for k in range(steps):
        alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * k / steps)) / 2
        logits, _, grad = logits_and_gradient(model, x_adv, goal.ascent(cross_entropy), goal.labels)
        adversarial = nearest.add(x_adv, logits)
        flat = (grad == 0).flatten(1).all(1)
        if flat.any():  # a zero gradient has no direction: take a random one
            grad[flat] = Draws(x[flat], take(generator, flat)).normal(*x.shape[1:])
        delta = x_adv - x + alpha * threat.steepest(grad)
        eps = (eps * torch.where(adversarial, 1 - gamma, 1 + gamma)).clamp_max(farthest)
        x_adv = (x + per_sample(eps) * threat.steepest(delta)).clamp(0, 1)
    return nearest.x_adv
