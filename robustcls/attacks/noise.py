"""Random noise as a score-based baseline attack."""

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
    """Random points, drawn alternately from the ball and from its surface; the worst is kept: a baseline without gradients.

    early_stop: a sample leaves with the first point that succeeds; otherwise the point closest to the goal of all draws is
    kept. target: N target classes.
    """
    if draws < 1:
        raise InputError(f"noise(draws={draws}): give 1 or more")
    goal, result = Goal.of(y, target), x.clone()
    a = _Active(x, goal.labels, x, best=x.new_full((len(x),), -torch.inf))
    for draw in range(draws + 1):  # draw 0 evaluates the clean image
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
    best: Tensor  # N, how close x_adv is to the goal


def _on_surface(threat: ThreatModel, x: Tensor, generator: Generator | None) -> Tensor:
    direction = threat.steepest(Draws(x, generator).normal(*x.shape[1:]))
    return threat.project(x + threat.eps * direction, x)
