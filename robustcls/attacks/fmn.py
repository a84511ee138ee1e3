"""The fast minimum-norm attack.

What differs from the authors' code and foolbox's:

- The ball is 1.05 times as large, or the attack stops short of the boundary wherever the box cuts its steps. Not measured.
- In l1 the projection is onto ball and box at once. Against the ball alone, on four small networks on digits, 360 images,
  distances are 0 to 0.2% smaller in the mean; in linf and l2 they are equal to four digits.
- Where the image itself leads to nothing, as where gradients vanish, the attack begins again from an adversarial image.
- foolbox 3.3.4 never projects in l2: it divides a norm by itself.
"""

import math
from functools import partial

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._nearest import Nearest, find_starts, lead, minimum_norm
from robustcls.core.draws import take
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.threat import ThreatModel

ALPHA_0, ALPHA_K = 1.0, 0.01  # the first and the last step, in l2
GAMMA_0, GAMMA_K = 0.05, 0.001  # by which share the ball shrinks and grows
BEYOND = 1.05  # of the ball's radius


@minimum_norm("linf", "l2", "l1", positive=("steps",))
def fmn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    others: Tensor | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Fast minimum-norm attack: a ball that shrinks and grows around the boundary (Pintor et al. 2021, arXiv:2102.12827).

    others: M,C,H,W, images to begin from where nothing is found from the image itself and noise is no adversarial example;
    x unless given. target: N target classes.
    """
    aims = target is not None
    y = y if target is None else target  # below, the labels of the goal
    nearest = Nearest(x, y, threat, targeted=aims)
    _run(model, threat, steps, nearest, x)
    left = ~nearest.found
    if left.any():
        own = take(generator, left)
        start = find_starts(model, x[left], y[left], threat, own, x if others is None else others, targeted=aims)
        if start.found.any():
            again = Nearest(x[left], y[left], threat, targeted=aims)
            _run(model, threat, steps, again, start.x_adv)
            nearest.x_adv[left] = again.x_adv
    return nearest.x_adv


def _run(model: nn.Module, threat: ThreatModel, steps: int, nearest: Nearest, x_adv: Tensor) -> None:
    """Algorithm 1 of the paper, from x_adv."""
    x, y, loss = nearest.x, nearest.y, partial(lead, targeted=nearest.goal.targeted)
    farthest = threat.distance(torch.maximum(x, 1 - x), torch.zeros_like(x))
    eps = torch.full_like(farthest, torch.inf)
    for k in range(steps):
        cosine = (1 + math.cos(math.pi * k / steps)) / 2
        alpha, gamma = ALPHA_K + (ALPHA_0 - ALPHA_K) * cosine, GAMMA_K + (GAMMA_0 - GAMMA_K) * cosine
        logits, gap, grad = logits_and_gradient(model, x_adv, loss, y)
        adversarial = nearest.add(x_adv, logits)
        to_boundary = threat.distance(x_adv, x) + gap.abs() / threat.dual(grad)
        eps = torch.where(
            adversarial,
            torch.minimum(eps * (1 - gamma), nearest.distance),
            torch.where(nearest.found, eps * (1 + gamma), to_boundary),
        ).clamp_max(farthest)
        step = alpha * ThreatModel("l2", 1).steepest(grad)
        x_adv = threat.project(x_adv + step, x, BEYOND * eps)
