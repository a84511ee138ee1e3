"""Auto-PGD: projected gradient ascent with momentum that halves its own step (Croce and Hein 2020, arXiv:2003.01690).

What differs from AutoAttack's code, as measured on small CIFAR-10 networks:

- The start is uniform in the ball, theirs on its surface: a mean radius of 0.9997 eps at 3 x 32 x 32 pixels, of 0.986 at
  8 x 8. Not measurable in robust accuracy.
- The first checkpoint follows the paper. Theirs compares the first loss with an unset one, so that a halving may come one
  checkpoint earlier or later. Effect on robust accuracy: not measured by itself; in a parity test against their code the
  two stay within 1.5 points.
- l2 gradients are rescaled before their norm is taken, so that those below 1e-12 count, too.
- early_stop: the result is the first adversarial point, theirs the last. The same samples break.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import Active, Restarts, per_sample
from robustcls.attacks._apgd_l1 import ascend_l1
from robustcls.attacks._goal import Goal, Loss, hits
from robustcls.core.draws import take
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import cross_entropy, dlr, misclassified, wrong_classes
from robustcls.core.threat import ThreatModel

__all__ = ["apgd_ce", "apgd_dlr", "apgd_t"]

ALPHA = 0.75  # of a step is new, the rest momentum
RHO = 0.75  # share of the steps since the last checkpoint in which the loss must have risen
FIRST_PERIOD, PERIOD_FALLS, LAST_PERIOD = 0.22, 0.03, 0.06  # between checkpoints, as shares of all steps


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

    start: N,C,H,W, where the first run begins instead of a random point of the ball. target: N classes to be taken for;
    their loss is minimised.
    """
    loss = cross_entropy if target is None else _towards
    return _restart(model, x, y, threat, loss, steps, restarts, early_stop, start, target, generator)


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

    start: as in `apgd_ce`. target: N classes to be taken for, by the targeted ratio of `apgd_t`.
    """
    loss = dlr if target is None else targeted_dlr
    return _restart(model, x, y, threat, loss, steps, restarts, early_stop, start, target, generator)


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    targets: int = 9,
    restarts: int = 1,
    closest: float = 1.0,
    early_stop: bool = True,
    start: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the targeted difference of logits ratio, towards each wrong class of the largest logits in turn.

    Croce and Hein 2020, arXiv:2003.01690. With fewer classes there are as many targets as wrong classes. Of a sample that
    stays robust the attempt that came closest is kept. closest: the first two restarts attack all survivors, the third
    those to which at most this share is left of the way from the clean image to an error, by the DLR, and for each later
    one that share is multiplied by its root. start: N,C,H,W, where the runs of the first restart begin.
    """
    if targets < 1 or restarts < 1 or not 0 < closest <= 1:
        raise InputError(
            f"apgd_t(targets={targets}, restarts={restarts}, closest={closest}): give 1 or more, and a share in (0, 1]"
        )
    with torch.no_grad():
        logits = model(x)
    wrong, way = wrong_classes(logits, y), dlr(logits, y)  # the way is below 0 for what is right
    runs = Restarts(model, x, Goal(y, measure=dlr), early_stop)  # whose scale lets samples be compared
    for restart in range(restarts):
        for rank in range(min(targets, wrong.shape[1])):
            rows = runs.left
            if len(rows) == 0:
                return runs.x_adv
            begin = start[rows] if start is not None and restart == 0 else None
            x_adv = _ASCENTS[threat.norm](
                model, x[rows], y[rows], threat, targeted_dlr, steps, take(generator, rows),
                target=wrong[rows, rank], start=begin, early_stop=early_stop,
            )  # fmt: skip
            runs.add(x_adv)
        # One start tells too little of how far a sample is. The rule sees the sample alone, so that no other decides.
        if restart > 0 and closest < 1:
            runs.give_up_below(closest ** ((restart + 1) / 2) * way)
    return runs.x_adv


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Target minus true logit over the spread of the largest four, or three where there are no more: N.

    The spread is the largest less the mean of the last two. With two classes the ratio is constant: the gap alone.
    Classes that are masked with -inf do not count.
    """
    logits = logits.float()
    gap = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    if logits.shape[1] == 2:
        return gap
    ordered = logits.topk(min(4, logits.shape[1]), dim=1).values
    last = ordered[:, -2:]
    if logits.shape[1] > 3:
        last = torch.where(ordered[:, 3:].isfinite(), last, ordered[:, 1:3])
    usable = ordered[:, :3].isfinite().all(1)
    return gap / torch.where(usable, ordered[:, 0] - last.mean(1) + 1e-12, 1.0)


def _towards(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return -cross_entropy(logits, target)


def _restart(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    loss: Loss,
    steps: int,
    restarts: int,
    early_stop: bool,
    start: Tensor | None,
    target: Tensor | None,
    generator: Generator | None,
) -> Tensor:
    if restarts < 1:
        raise InputError(f"apgd(restarts={restarts}): give 1 or more")
    runs = Restarts(model, x, Goal.of(y, target), early_stop)
    for restart in range(restarts):
        rows = runs.left
        if len(rows) == 0:
            break
        begin = start[rows] if start is not None and restart == 0 else None
        x_adv = _ASCENTS[threat.norm](
            model, x[rows], y[rows], threat, loss, steps, take(generator, rows),
            target=None if target is None else target[rows], start=begin, early_stop=early_stop, aims=target is not None,
        )  # fmt: skip
        if restarts == 1:
            return x_adv
        runs.add(x_adv)
    return runs.x_adv


@dataclass(kw_only=True)
class _Active(Active):
    """The paper's x^(k) is x_adv, its x_max, f_max and eta have their names."""

    target: Tensor | None  # N
    x_last: Tensor  # x^(k-1)
    f: Tensor  # N, the loss at x_adv
    f_last: Tensor
    grad: Tensor
    x_max: Tensor  # the point of the largest loss
    f_max: Tensor
    grad_max: Tensor
    f_checked: Tensor  # f_max at the last checkpoint
    eta: Tensor  # N,1,1,1, the step
    rises: Tensor  # N, steps since the last checkpoint in which the loss rose
    halved: Tensor  # N, whether the last checkpoint halved the step


def _ascend(
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
    """One run (Algorithm 1 of the paper): for each sample the first point that succeeds, else that of the largest loss.

    loss: of logits, y and, where given, target (N). aims: whether the target alone is a success, not any wrong class.
    """
    if steps < 1:
        raise InputError(f"apgd(steps={steps}): give 1 or more")
    result = x.clone()
    start = threat.random_start(x, generator) if start is None else threat.project(start, x)
    low, zeros = x.new_full((len(x),), -torch.inf), x.new_zeros(len(x))
    a = _Active(
        x, y, start, target=target, x_last=start, f=low, f_last=low, grad=x, x_max=start, f_max=low, grad_max=x,
        f_checked=low, eta=torch.full_like(x[:, :1, :1, :1], 2 * threat.eps), rises=zeros, halved=zeros.bool(),
    )  # fmt: skip
    period, falls, shortest = (max(int(share * steps), 1) for share in (FIRST_PERIOD, PERIOD_FALLS, LAST_PERIOD))
    since_checkpoint = 0
    for k in range(steps + 1):
        labels = (a.y,) if a.target is None else (a.y, a.target)
        logits, a.f, a.grad = logits_and_gradient(model, a.x_adv, loss, *labels)
        if early_stop:
            a.drop(hits(logits, labels[-1]) if aims else misclassified(logits, a.y), into=result)
            if len(a) == 0:
                return result
        better = a.f > a.f_max
        a.f_max = torch.where(better, a.f, a.f_max)
        a.x_max = torch.where(per_sample(better), a.x_adv, a.x_max)
        a.grad_max = torch.where(per_sample(better), a.grad, a.grad_max)
        a.rises = a.rises + (a.f > a.f_last)
        a.f_last = a.f
        if k == 0:
            a.f_checked, a.rises = a.f_max, torch.zeros_like(a.rises)
        elif since_checkpoint == period:
            # Too few rises (condition 1), or neither a halving at the last checkpoint nor a new maximum since (condition 2).
            halve = (a.rises <= RHO * period) | (~a.halved & (a.f_checked >= a.f_max))
            a.halved, a.f_checked, a.rises = halve, a.f_max, torch.zeros_like(a.rises)
            a.eta = torch.where(per_sample(halve), a.eta / 2, a.eta)
            a.x_adv = torch.where(per_sample(halve), a.x_max, a.x_adv)
            a.grad = torch.where(per_sample(halve), a.grad_max, a.grad)
            period, since_checkpoint = max(period - falls, shortest), 0
        if k < steps:
            alpha = ALPHA if k > 0 else 1.0
            z = threat.project(a.x_adv + a.eta * threat.steepest(a.grad), a.x)
            ahead = a.x_adv + alpha * (z - a.x_adv) + (1 - alpha) * (a.x_adv - a.x_last)
            a.x_last, a.x_adv = a.x_adv, threat.project(ahead, a.x)
            since_checkpoint += 1
    result[a.index] = a.x_max
    return result


_ASCENTS: dict[str, Callable[..., Tensor]] = {"linf": _ascend, "l2": _ascend, "l1": ascend_l1}
