"""Auto-PGD: projected gradient ascent with momentum and an adaptive step size (Croce and Hein 2020, arXiv:2003.01690).

In l1 the steps are sparse and the projection is onto the intersection of ball and box (Croce and Hein 2021, arXiv:2103.01208).
Differences from AutoAttack's code, as measured on small CIFAR-10 networks:

- The start is uniform in the ball; AutoAttack's lies on its surface. The mean radius is 0.9997 eps at 3 x 32 x 32 pixels and
  0.986 eps at 8 x 8. The effect on robust accuracy is too small to measure.
- The first checkpoint follows the paper. AutoAttack compares the first loss with an unset value, so a halving may come one
  checkpoint earlier or later. Effect on robust accuracy: not measured separately; in a parity test the two stay within 1.5
  points of each other.
- l2 gradients are rescaled before their norm is computed, so that gradients below 1e-12 also give a direction.
- early_stop returns the first adversarial point, AutoAttack the last. The same samples are misclassified.
- l1: the first step moves 0.2 of the pixels, 614 of 3 x 32 x 32. AutoAttack derives the number from what the start changed:
  about 286. It is overwritten after one step. Effect on robust accuracy: not measured separately.
- l1: adversarial examples within eps that the runs in the balls of 3 and 2 eps find are counted. This can only lower robust
  accuracy.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import Active, Restarts, per_sample
from robustcls.attacks._goal import Goal, Loss
from robustcls.core.draws import Draws, take
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import cross_entropy, dlr, prob_margin, targeted_dlr
from robustcls.core.threat import BALL, ThreatModel
from robustcls.core.traits import traits

__all__ = ["apgd_ce", "apgd_dlr", "apgd_pm"]

ALPHA = 0.75  # weight of the new step; the rest is momentum
RHO = 0.75  # the step is halved unless the loss rose in more than this share of the steps since the last checkpoint
FIRST_PERIOD, PERIOD_FALLS, LAST_PERIOD = 0.22, 0.03, 0.06  # steps between checkpoints, as shares of all steps

# l1
RADII, EARLY = (3, 2, 1), 0.3  # radii of the balls in eps; share of the steps spent in each of the larger two
PERIOD = 0.04  # steps between checkpoints, as a share of the steps in a ball
SPARSER = 0.95  # if the best point changes fewer pixels than this share of what it did, the step size is reset
SHRINK, SHORTEST = 1.5, 10  # otherwise it is divided by SHRINK, but not below the first step size / SHORTEST
SPARSEST = 0.01  # with radii per sample, the first steps count at least this share of the pixels as changed
MOVED = 1.5  # a step moves as many pixels as the best point has changed, divided by this


@traits(mask=True)
def apgd_ce(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    early_stop: bool = True,
    start: Tensor | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the cross-entropy (Croce and Hein 2020, arXiv:2003.01690).

    start: N,C,H,W, where the first run begins; by default at a random point of the ball. target: N target classes, whose loss
    is minimised.
    """
    goal = Goal.of(y, target)
    ascent = Ascent(model, threat, goal, goal.ascent(cross_entropy), steps, early_stop)
    return ascent.best_of(x, [None], restarts, start, generator)


@traits(mask=True)
def apgd_dlr(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    early_stop: bool = True,
    start: Tensor | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690).

    start: as in `apgd_ce`. target: N target classes; the loss is then the targeted ratio of `apgd_t`.
    """

    def towards(logits: Tensor, target: Tensor, y: Tensor) -> Tensor:
        return targeted_dlr(logits, y, target)

    loss, others = (dlr, [None]) if target is None else (towards, [y])
    return Ascent(model, threat, Goal.of(y, target), loss, steps, early_stop).best_of(
        x, others, restarts, start, generator
    )


@traits(mask=True)
def apgd_pm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    early_stop: bool = True,
    start: Tensor | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the probability margin, the loss of PMA (Xie et al. 2024, arXiv:2411.15210).

    start, target: as in `apgd_ce`.
    """
    goal = Goal.of(y, target)
    ascent = Ascent(model, threat, goal, goal.ascent(prob_margin), steps, early_stop)
    return ascent.best_of(x, [None], restarts, start, generator)


@dataclass
class _Active(Active):
    """A run: x_adv is the paper's x^(k), y the labels of the goal; x_max, f_max and eta have the paper's names."""

    other: Tensor | None  # N, a second label that the loss takes besides y
    radius: Tensor | None  # N, the radius of each sample's ball; None: eps for all
    f: Tensor = field(init=False)  # N, the loss at x_adv
    grad: Tensor = field(init=False)
    x_max: Tensor = field(init=False)  # the best point: the one with the largest loss
    f_max: Tensor = field(init=False)
    grad_max: Tensor = field(init=False)
    eta: Tensor = field(init=False)  # N,1,1,1, the step size

    def __post_init__(self) -> None:
        super().__post_init__()
        self.f = self.f_max = self.x.new_full((len(self.x),), -torch.inf)
        self.grad, self.grad_max, self.x_max = self.x, self.x, self.x_adv

    def return_to_best(self, rows: Tensor) -> None:
        """Continue these samples (N, bool) from their best point."""
        self.x_adv = torch.where(per_sample(rows), self.x_max, self.x_adv)
        self.grad = torch.where(per_sample(rows), self.grad_max, self.grad)


@dataclass
class _Momentum(_Active):
    x_last: Tensor = field(init=False)  # x^(k-1)
    f_last: Tensor = field(init=False)
    f_checked: Tensor = field(init=False)  # f_max at the last checkpoint
    rises: Tensor = field(init=False)  # N, steps since the last checkpoint in which the loss rose
    halved: Tensor = field(init=False)  # N, whether the last checkpoint halved the step

    def __post_init__(self) -> None:
        super().__post_init__()
        self.x_last, self.f_last, self.f_checked = self.x_adv, self.f, self.f
        self.rises, self.halved = torch.zeros_like(self.f), torch.zeros_like(self.f).bool()


@dataclass
class _Sparse(_Active):
    changed: Tensor = field(init=False)  # N, how many pixels x_max had changed at the last checkpoint


@dataclass(frozen=True)
class Ascent:
    """Maximise a loss, a function of the logits, y and, where given, a second label (N)."""

    model: Callable[[Tensor], Tensor]
    threat: ThreatModel
    goal: Goal
    loss: Loss
    steps: int
    early_stop: bool

    def best_of(
        self,
        x: Tensor,
        others: Sequence[Tensor | None],
        restarts: int,
        start: Tensor | None,
        generator: Generator | None,
        least: Callable[[int], Tensor] | None = None,
    ) -> Tensor:
        """Run once per restart and second label in `others`, and return each sample's best result.

        least: maps a restart (0, 1, ...) to N values; a sample that came less close to the goal gets no further restart.
        """
        if restarts < 1 or self.steps < 1:
            raise InputError(f"apgd(steps={self.steps}, restarts={restarts}): give 1 or more of each")
        runs = Restarts(self.model, x, self.goal, self.early_stop)
        for restart in range(restarts):
            for other in others:
                rows = runs.left
                if len(rows) == 0:
                    return runs.x_adv
                other = None if other is None else other[rows]
                begin = None if start is None or restart > 0 else start[rows]
                x_adv = self.run(x[rows], self.goal.labels[rows], other, begin, take(generator, rows))
                if restarts == len(others) == 1 and least is None:  # a single run: nothing to compare
                    return x_adv
                runs.add(x_adv)
            if least is not None:
                runs.give_up_below(least(restart))
        return runs.x_adv

    def run(
        self,
        x: Tensor,
        y: Tensor,
        other: Tensor | None,
        start: Tensor | None,
        generator: Generator | None,
        radius: Tensor | None = None,
    ) -> Tensor:
        """Run once. Return each sample's first point that succeeds, or the point with the largest loss.

        radius: N, the radius of each sample's ball instead of eps; needs `start`.
        """
        return (self._sparse if self.threat.norm == "l1" else self._momentum)(x, y, other, start, generator, radius)

    def _momentum(self, x, y, other, start, generator, radius) -> Tensor:
        """Algorithm 1 of the paper, for linf and l2."""
        threat, steps, result = self.threat, self.steps, x.clone()
        start = threat.random_start(x, generator) if start is None else threat.project(start, x, radius)
        a = _Momentum(x, y, start, other, radius)
        a.eta = 2 * _sizes(threat, a)
        period, falls, shortest = (max(int(share * steps), 1) for share in (FIRST_PERIOD, PERIOD_FALLS, LAST_PERIOD))
        since_checkpoint = 0
        for k in range(steps + 1):
            if not self._look(a, result):
                return result
            a.rises = a.rises + (a.f > a.f_last)
            a.f_last = a.f
            if k == 0:
                a.f_checked, a.rises = a.f_max, torch.zeros_like(a.rises)
            elif since_checkpoint == period:
                # Too few rises (condition 1), or neither a halving at the last checkpoint nor a new maximum since (2).
                halve = (a.rises <= RHO * period) | (~a.halved & (a.f_checked >= a.f_max))
                a.halved, a.f_checked, a.rises = halve, a.f_max, torch.zeros_like(a.rises)
                a.eta = torch.where(per_sample(halve), a.eta / 2, a.eta)
                a.return_to_best(halve)
                period, since_checkpoint = max(period - falls, shortest), 0
            if k < steps:
                alpha = ALPHA if k > 0 else 1.0
                z = threat.project(a.x_adv + a.eta * threat.steepest(a.grad), a.x, a.radius)
                ahead = a.x_adv + alpha * (z - a.x_adv) + (1 - alpha) * (a.x_adv - a.x_last)
                a.x_last, a.x_adv = a.x_adv, threat.project(ahead, a.x, a.radius)
                since_checkpoint += 1
        result[a.index] = a.x_max
        return result

    def _sparse(self, x, y, other, start, generator, radius) -> Tensor:
        """The l1 algorithm: balls of 3, 2 and 1 eps in turn, from Gaussian noise (Croce and Hein 2021, arXiv:2103.01208).

        A sample leaves with the first point within eps that succeeds; without early_stop it gets the point with the largest
        loss there. With 3 steps or more, each ball gets at least one. With radii per sample there is one ball.
        """
        result, early = x.clone(), min(math.ceil(EARLY * self.steps), (self.steps - 1) // 2)
        start = x + Draws(x, generator).normal(*x.shape[1:]) if start is None else start
        a = _Sparse(x, y, start, other, radius)
        lengths = (
            zip(RADII, (early, early, self.steps - 2 * early), strict=True) if radius is None else [(1, self.steps)]
        )
        for share, length in lengths:
            if length == 0:
                continue
            ball, period = replace(self.threat, eps=share * self.threat.eps), max(int(PERIOD * length), 1)
            a.x_adv = a.x_max = ball.project(a.x_max, a.x, a.radius)
            a.f_max, a.eta = torch.full_like(a.f, -torch.inf), _sizes(ball, a)
            a.changed = _changed(a.x_adv, a.x)
            if radius is not None:
                a.changed = a.changed.clamp_min(SPARSEST * x[0].numel())
            elif share == RADII[0]:  # a start equal to the clean image changes no pixel: steps would stay at one pixel
                a.changed = a.changed.clamp_min(0.3 * x[0].numel())
            for k in range(length + 1):
                if not self._look(a, result):
                    return result
                if k == length:
                    break
                if k > 0 and k % period == 0:
                    # Reset the step size, at the best point, where this became sparser; reduce it elsewhere.
                    changed = _changed(a.x_max, a.x)
                    sparser = changed < SPARSER * a.changed
                    a.changed = changed
                    shorter = torch.maximum(a.eta / SHRINK, _sizes(ball, a) / SHORTEST)
                    a.eta = torch.where(per_sample(sparser), _sizes(ball, a), shorter)
                    a.return_to_best(sparser)
                a.x_adv = ball.project(
                    a.x_adv + a.eta * _sparse_direction(self.threat.masked(a.grad), a.changed / MOVED), a.x, a.radius
                )
        result[a.index] = a.x_max
        return result

    def _look(self, a: _Active, result: Tensor) -> bool:
        """Evaluate x_adv, drop samples that succeed, update the best points; return whether any sample remains."""
        labels = (a.y,) if a.other is None else (a.y, a.other)
        logits, a.f, a.grad = logits_and_gradient(self.model, a.x_adv, self.loss, *labels)
        if self.early_stop:
            succeeded = self.goal.reached(logits, a.y)
            if self.threat.norm == "l1":  # runs begin in larger balls, where success does not count
                radius = self.threat.eps if a.radius is None else a.radius
                succeeded &= self.threat.distance(a.x_adv, a.x) <= radius + BALL
            a.drop(succeeded, into=result)
        better = a.f > a.f_max
        a.f_max = torch.where(better, a.f, a.f_max)
        a.x_max = torch.where(per_sample(better), a.x_adv, a.x_max)
        a.grad_max = torch.where(per_sample(better), a.grad, a.grad_max)
        return len(a) > 0


def _sizes(ball: ThreatModel, a: _Active) -> Tensor:
    """Return the radius of each sample's ball, N,1,1,1."""
    return torch.full_like(a.x[:, :1, :1, :1], ball.eps) if a.radius is None else per_sample(a.radius)


def _changed(x_adv: Tensor, x: Tensor) -> Tensor:
    return (x_adv != x).flatten(1).sum(1)


def _sparse_direction(grad: Tensor, count: Tensor) -> Tensor:
    """Return the signs of the `count` (N) largest entries of each gradient, divided by their number: N,C,H,W."""
    size = grad.flatten(1).abs()
    count = count.ceil().long().clamp(1, size.shape[1])
    smallest = size.topk(int(count.max()), dim=1).values.gather(1, count[:, None] - 1)
    direction = grad.sign() * (size >= smallest).view_as(grad)
    return direction / per_sample(direction.flatten(1).abs().sum(1).clamp_min(1))
