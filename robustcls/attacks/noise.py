"""Random noise: a score-based baseline."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import Active, per_sample
from robustcls.attacks._goal import Goal
from robustcls.core.draws import Draws, take
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits


@traits(gradients=False, mask=True)
@torch.no_grad()
def noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: int = 10,
    early_stop: bool = True,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The worst of some random points, drawn in turn from the ball and from its surface: a baseline without gradients.

    early_stop: the first point that succeeds will do; otherwise the largest margin of all draws is kept. target: N
    target classes.
    """
    if draws < 1:
        raise InputError(f"noise(draws={draws}): give 1 or more")
    goal, result = Goal.of(y, target), x.clone()
    a = _Active(x, goal.labels, x, best=x.new_full((len(x),), -torch.inf))
    for draw in range(draws + 1):  # the first looks at the image itself
        point = a.x
        if draw > 0:
            point = threat.random_start(a.x, generator) if draw % 2 else _on_surface(threat, a.x, generator)
        logits = model(point)
        closeness = goal.closeness(logits, a.y)
        a.x_adv = torch.where(per_sample(closeness > a.best), point, a.x_adv)
        a.best = torch.maximum(closeness, a.best)
        if early_stop:
            succeeded = goal.reached(logits, a.y)
            if a.drop(succeeded, into=result):
                generator = take(generator, ~succeeded)
            if len(a) == 0:
                return result
    result[a.index] = a.x_adv
    return result


@dataclass
class _Active(Active):
    best: Tensor  # N, the closeness of x_adv


def _on_surface(threat: ThreatModel, x: Tensor, generator: Generator | None) -> Tensor:
    direction = threat.steepest(Draws(x, generator).normal(*x.shape[1:]))
    return threat.project(x + threat.eps * direction, x)
