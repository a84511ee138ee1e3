"""Auto-PGD: projected gradient ascent with momentum that halves its own step (Croce and Hein 2020, arXiv:2003.01690).

In l1 its steps are sparse and its projection is onto ball and box at once (Croce and Hein 2021, arXiv:2103.01208).
What differs from AutoAttack's code, as measured on small CIFAR-10 networks:

- The start is uniform in the ball, theirs on its surface: a mean radius of 0.9997 eps at 3 x 32 x 32 pixels, of 0.986 at
  8 x 8. Not measurable in robust accuracy.
- The first checkpoint follows the paper. Theirs compares the first loss with an unset one, so that a halving may come one
  checkpoint earlier or later. Effect on robust accuracy: not measured by itself; in a parity test against their code the
  two stay within 1.5 points.
- l2 gradients are rescaled before their norm is taken, so that those below 1e-12 count, too.
- early_stop: the result is the first adversarial point, theirs the last. The same samples are misclassified.
- l1: the first step moves 0.2 of the pixels, 614 of 3 x 32 x 32; theirs counts what the start changed, which comes to about
  286. It is overwritten after one step. Effect on robust accuracy: not measured by itself.
- l1: adversarial examples inside eps that the runs in the balls of 3 and 2 eps reach count. That can only lower robust
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

ALPHA = 0.75  # of a step is new, the rest momentum
RHO = 0.75  # share of the steps since the last checkpoint in which the loss must have risen
FIRST_PERIOD, PERIOD_FALLS, LAST_PERIOD = 0.22, 0.03, 0.06  # between checkpoints, as shares of all steps

# l1
RADII, EARLY = (3, 2, 1), 0.3  # of the balls, in eps; the share of the steps that each of the larger two gets
PERIOD = 0.04  # of a ball's steps, between checkpoints
SPARSER = 0.95  # where the best point has changed fewer than this share of the pixels it had, the first step again
SHRINK, SHORTEST = 1.5, 10  # elsewhere the step is divided by the one, down to the first step over the other
SPARSEST = 0.01  # of the pixels that the first steps of a run in a ball of its own move, as a share, by 1.5
MOVED = 1.5  # a step moves as many pixels as the best point has changed, over this


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

    start: N,C,H,W, where the first run begins instead of a random point of the ball. target: N target classes, whose loss
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

    start: as in `apgd_ce`. target: N target classes, by the targeted ratio of `apgd_t`.
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
    """Auto-PGD on the probability margin: PMA (Xie et al. 2024, arXiv:2411.15210), in its steps.

    start, target: as in `apgd_ce`.
    """
    goal = Goal.of(y, target)
    ascent = Ascent(model, threat, goal, goal.ascent(prob_margin), steps, early_stop)
    return ascent.best_of(x, [None], restarts, start, generator)


@dataclass
class _Active(Active):
    """A run: x_adv is the paper's x^(k), y the labels of the goal; x_max, f_max and eta have the paper's names."""

    other: Tensor | None  # N, what the loss takes beside y
    radius: Tensor | None  # N, of each sample's own ball; None: eps
    f: Tensor = field(init=False)  # N, the loss at x_adv
    grad: Tensor = field(init=False)
    x_max: Tensor = field(init=False)  # the best point: that of the largest loss
    f_max: Tensor = field(init=False)
    grad_max: Tensor = field(init=False)
    eta: Tensor = field(init=False)  # N,1,1,1, the step

    def __post_init__(self) -> None:
        super().__post_init__()
        self.f = self.f_max = self.x.new_full((len(self.x),), -torch.inf)
        self.grad, self.grad_max, self.x_max = self.x, self.x, self.x_adv

    def return_to_best(self, rows: Tensor) -> None:
        """These samples (N, bool) go on from their best point."""
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
    changed: Tensor = field(init=False)  # N, the pixels that x_max had changed at the last checkpoint


@dataclass(frozen=True)
class Ascent:
    """The maximisation of a loss: of logits, y and, where given, a second label (N)."""

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
        """The best run of each sample, of one for each of the second labels `others` in each restart.

        least: of a restart (0, 1, ...) the closeness to the goal, N, below which a sample gets no further one.
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
                if restarts == len(others) == 1 and least is None:  # nothing to compare it with
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
        """One run: for each sample the first point that succeeds, else that of the largest loss.

        radius: N, of each sample's own ball instead of eps; it takes a start.
        """
        return (self._sparse if self.threat.norm == "l1" else self._momentum)(x, y, other, start, generator, radius)

    def _momentum(self, x, y, other, start, generator, radius) -> Tensor:
        """Algorithm 1 of the paper."""
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
        """Through balls of 3, 2 and 1 eps, from Gaussian noise (Croce and Hein 2021, arXiv:2103.01208).

        A sample leaves with the first point in the ball of eps that succeeds; without early_stop the largest loss there
        counts. With 3 steps or more each ball gets some. With radii of its own a run has one ball, where its start lies.
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
            elif share == RADII[0]:  # from the clean image, a step of one pixel would never grow
                a.changed = a.changed.clamp_min(0.3 * x[0].numel())
            for k in range(length + 1):
                if not self._look(a, result):
                    return result
                if k == length:
                    break
                if k > 0 and k % period == 0:
                    # Long steps again from the best point where it became sparser, shorter ones elsewhere.
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
        """Loss and gradient at x_adv, which may be the new best point. Samples that succeed leave; whether any is left."""
        labels = (a.y,) if a.other is None else (a.y, a.other)
        logits, a.f, a.grad = logits_and_gradient(self.model, a.x_adv, self.loss, *labels)
        if self.early_stop:
            succeeded = self.goal.reached(logits, a.y)
            if self.threat.norm == "l1":  # whose runs begin in larger balls
                radius = self.threat.eps if a.radius is None else a.radius
                succeeded &= self.threat.distance(a.x_adv, a.x) <= radius + BALL
            a.drop(succeeded, into=result)
        better = a.f > a.f_max
        a.f_max = torch.where(better, a.f, a.f_max)
        a.x_max = torch.where(per_sample(better), a.x_adv, a.x_max)
        a.grad_max = torch.where(per_sample(better), a.grad, a.grad_max)
        return len(a) > 0


def _sizes(ball: ThreatModel, a: _Active) -> Tensor:
    """N,1,1,1, each sample's radius."""
    return torch.full_like(a.x[:, :1, :1, :1], ball.eps) if a.radius is None else per_sample(a.radius)


def _changed(x_adv: Tensor, x: Tensor) -> Tensor:
    return (x_adv != x).flatten(1).sum(1)


def _sparse_direction(grad: Tensor, count: Tensor) -> Tensor:
    """The signs of the `count` (N) largest coordinates of each gradient, over their number: N,C,H,W."""
    size = grad.flatten(1).abs()
    count = count.ceil().long().clamp(1, size.shape[1])
    smallest = size.topk(int(count.max()), dim=1).values.gather(1, count[:, None] - 1)
    direction = grad.sign() * (size >= smallest).view_as(grad)
    return direction / per_sample(direction.flatten(1).abs().sum(1).clamp_min(1))
