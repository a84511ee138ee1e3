"""Auto-PGD in l1: steps as sparse as the best point so far, projected onto the ball and the box at once.

Croce and Hein 2021, arXiv:2103.01208. What differs from AutoAttack's code:

- The first step moves 0.2 of the pixels, 614 of 3 x 32 x 32; theirs counts what the start changed, which comes to about
  286. It is overwritten after one step. Effect on robust accuracy: not measured by itself.
- Adversarial examples inside eps that the balls of 3 and 2 eps come upon count. That can only break more.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import Active, per_sample
from robustcls.attacks._goal import Loss, hits
from robustcls.core.draws import Draws
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import misclassified
from robustcls.core.threat import BALL, ThreatModel

RADII, EARLY = (3, 2, 1), 0.3  # of the balls, in eps; the share of the steps that each of the larger two gets
PERIOD = 0.04  # of a ball's steps, between checkpoints
SPARSER = 0.95  # where the best point has changed fewer than this share of the pixels it had, the first step again
SHRINK, SHORTEST = 1.5, 10  # elsewhere the step is divided by the one, down to the first step over the other
MOVED = 1.5  # a step moves as many pixels as the best point has changed, over this


@dataclass(kw_only=True)
class _Active(Active):
    target: Tensor | None  # N
    f: Tensor  # N, the loss at x_adv
    grad: Tensor
    x_max: Tensor  # the point of the largest loss
    f_max: Tensor
    grad_max: Tensor
    eta: Tensor  # N, the step
    changed: Tensor  # N, the pixels that x_max had changed at the last checkpoint


def ascend_l1(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    loss: Loss,
    steps: int,
    generator: Generator | None,
    *,
    target: Tensor | None = None,
    start: Tensor | None = None,
    early_stop: bool = True,
    aims: bool = False,
) -> Tensor:
    """One run through balls of 3, 2 and 1 eps: the first point that succeeds, else that of the largest loss.

    Croce and Hein 2021, arXiv:2103.01208. loss: of logits, y and, where given, target (N). start: N,C,H,W, instead of
    Gaussian noise. early_stop: a sample leaves with the first point in the ball of eps that succeeds; without, the largest
    loss there counts. aims: whether the target alone is a success. With 3 steps or more each ball gets some.
    """
    if steps < 1:
        raise InputError(f"apgd(steps={steps}): give 1 or more")
    result, eps = x.clone(), threat.eps
    early = min(math.ceil(EARLY * steps), (steps - 1) // 2)
    x_adv = x + Draws(x, generator).normal(*x.shape[1:]) if start is None else start
    low = x.new_full((len(x),), -torch.inf)
    a = _Active(x, y, x_adv, target=target, f=low, grad=x, x_max=x_adv, f_max=low, grad_max=x, eta=low, changed=low)
    for radius, length in zip(RADII, (early, early, steps - 2 * early), strict=True):
        if length == 0:
            continue
        ball, period = replace(threat, eps=radius * eps), max(int(PERIOD * length), 1)
        a.x_adv = a.x_max = ball.project(a.x_max, a.x)
        a.f_max, a.eta = torch.full_like(a.f, -torch.inf), torch.full_like(a.f, ball.eps)
        a.changed = _changed(a.x_adv, a.x)
        if radius == RADII[0]:  # from the clean image, a step of one pixel would never grow
            a.changed = a.changed.clamp_min(0.3 * x[0].numel())
        for k in range(length + 1):
            labels = (a.y,) if a.target is None else (a.y, a.target)
            logits, a.f, a.grad = logits_and_gradient(model, a.x_adv, loss, *labels)
            if early_stop:
                succeeded = hits(logits, labels[-1]) if aims else misclassified(logits, a.y)
                a.drop(succeeded & (threat.distance(a.x_adv, a.x) <= eps + BALL), into=result)
                if len(a) == 0:
                    return result
            better = a.f > a.f_max
            a.f_max = torch.where(better, a.f, a.f_max)
            a.x_max = torch.where(per_sample(better), a.x_adv, a.x_max)
            a.grad_max = torch.where(per_sample(better), a.grad, a.grad_max)
            if k == length:
                break
            if k > 0 and k % period == 0:
                # Long steps again from the best point where it became sparser, shorter ones elsewhere.
                changed = _changed(a.x_max, a.x)
                sparser = changed < SPARSER * a.changed
                a.changed = changed
                a.eta = torch.where(sparser, ball.eps, (a.eta / SHRINK).clamp_min(ball.eps / SHORTEST))
                a.x_adv = torch.where(per_sample(sparser), a.x_max, a.x_adv)
                a.grad = torch.where(per_sample(sparser), a.grad_max, a.grad)
            direction = _sparse_direction(a.grad, a.changed / MOVED)
            a.x_adv = ball.project(a.x_adv + per_sample(a.eta) * direction, a.x)
    result[a.index] = a.x_max
    return result


def _changed(x_adv: Tensor, x: Tensor) -> Tensor:
    return (x_adv != x).flatten(1).sum(1)


def _sparse_direction(grad: Tensor, count: Tensor) -> Tensor:
    """The signs of the `count` (N) largest coordinates of each gradient, over their number: N,C,H,W."""
    size = grad.flatten(1).abs()
    count = count.ceil().long().clamp(1, size.shape[1])
    smallest = size.topk(int(count.max()), dim=1).values.gather(1, count[:, None] - 1)
    direction = grad.sign() * (size >= smallest).view_as(grad)
    return direction / per_sample(direction.flatten(1).abs().sum(1).clamp_min(1))
