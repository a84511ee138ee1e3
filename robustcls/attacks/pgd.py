"""Projected gradient descent."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import Active, Restarts, per_sample
from robustcls.attacks._goal import Goal, Loss
from robustcls.core.draws import take
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits


@traits(soft_labels=True, mask=True)
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    momentum: float = 0.0,
    restarts: int = 1,
    random_start: bool = True,
    early_stop: bool = True,
    loss: Loss = cross_entropy,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the loss from a random start (Madry et al. 2017, arXiv:1706.06083).

    step_size: in pixel values; 2.5 eps / steps by default. momentum: decay of the accumulated gradient (Dong et al.
    2017, arXiv:1710.06081). restarts: number of runs, of which the worst is kept. early_stop: a sample leaves with the first
    iterate that succeeds; if False, the last iterate is returned, as in the paper. target: N target classes, whose loss is
    minimised.
    """
    if steps < 1 or restarts < 1:
        raise InputError(f"pgd(steps={steps}, restarts={restarts}): give 1 or more of each")
    if momentum < 0:
        raise InputError(f"pgd(momentum={momentum}): give 0 for none, or a decay such as 1.0")
    if y.is_floating_point() and (early_stop or restarts > 1):
        raise InputError("pgd needs one label per image for early_stop and restarts: give early_stop=False, restarts=1")
    step_size = threat.default_step(steps) if step_size is None else step_size
    goal = Goal.of(y, target)
    runs = Restarts(model, x, goal, early_stop)
    for _ in range(restarts):
        rows = runs.left
        if len(rows) == 0:
            break
        start = threat.random_start(x[rows], take(generator, rows)) if random_start else x[rows]
        zeros = torch.zeros_like(start)
        a = _Active(x[rows], goal.labels[rows], start, grad=zeros, velocity=zeros)
        x_adv = _ascend(model, a, threat, goal, loss, steps, step_size, momentum, early_stop)
        if restarts == 1:
            return x_adv
        runs.add(x_adv)
    return runs.x_adv


@dataclass
class _Active(Active):
    grad: Tensor
    velocity: Tensor  # the accumulated gradient


def _ascend(
    model: nn.Module,
    a: _Active,
    threat: ThreatModel,
    goal: Goal,
    loss: Loss,
    steps: int,
    step_size: float,
    momentum: float,
    early_stop: bool,
) -> Tensor:
    """Run PGD once. Return the last iterate of each sample or, with early_stop, the first that succeeds."""
    result = a.x_adv.clone()
    for _ in range(steps):
        logits, _, a.grad = logits_and_gradient(model, a.x_adv, goal.ascent(loss), a.y)
        if early_stop:
            a.drop(goal.reached(logits, a.y), into=result)
            if len(a) == 0:
                return result
        if momentum > 0:
            mean = per_sample(a.grad.abs().flatten(1).mean(1)).clamp_min(1e-30)
            a.grad = a.velocity = momentum * a.velocity + a.grad / mean
        a.x_adv = threat.project(a.x_adv + step_size * threat.steepest(a.grad), a.x)
    result[a.index] = a.x_adv
    return result
