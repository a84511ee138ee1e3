"""Targeted Auto-PGD: a run of `apgd` towards one wrong class after another."""

from typing import Literal

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import at_most_left
from robustcls.attacks._goal import Goal
from robustcls.attacks.apgd import Ascent
from robustcls.core.draws import take
from robustcls.core.errors import InputError
from robustcls.core.gradients import finite
from robustcls.core.losses import dlr, gap, targeted_dlr, wrong_classes
from robustcls.core.threat import ThreatModel

RANKED = 9  # wrong classes of the largest logits, of which the distance is taken


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    targets: int = 9,
    skip: int = 0,
    order: Literal["logits", "distance"] = "logits",
    restarts: int = 1,
    closest: float = 1.0,
    within: float = 1.0,
    early_stop: bool = True,
    start: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the targeted difference of logits ratio, towards each wrong class of the largest logits in turn.

    Croce and Hein 2020, arXiv:2003.01690. With fewer classes there are as many targets as wrong classes. Of a sample that
    stays robust the attempt that came closest is kept. order: `distance` takes those first that are nearest by
    linearisation (MALT, Melamed et al. 2024, arXiv:2407.02240). skip: leaves out the first so many, which an earlier attack
    had. closest: the first two restarts attack all survivors, the third those to which at most this share is left of the way
    from the clean image to an error, by the DLR, and for each later one that share is multiplied by its root. within: only
    samples to which `start` has left at most this share of the way; in a cascade that is the strongest attempt so far.
    start: N,C,H,W, where the runs of the first restart begin.
    """
    shares = 0 < closest <= 1 and 0 < within <= 1
    if targets < 1 or restarts < 1 or skip < 0 or not shares:
        raise InputError(
            f"apgd_t(targets={targets}, skip={skip}, restarts={restarts}, closest={closest}, within={within}): give 1 or "
            "more, skip 0 or more, and shares in (0, 1]"
        )
    x_adv, rows = x.clone(), at_most_left(within, model, x, y, start)
    if len(rows) > 0:
        x, y, start = x[rows], y[rows], None if start is None else start[rows]
        with torch.no_grad():
            logits = model(x)
        ranked = wrong_classes(logits, y) if order == "logits" else nearest_classes(model, x, y, threat)
        others, way = list(ranked[:, skip : skip + targets].T), dlr(logits, y)  # below 0 for what is right
        least = None if closest == 1 else lambda restart: closest ** ((restart + 1) / 2) * way
        goal = Goal(y, measure=dlr)  # whose scale lets samples be compared
        ascent = Ascent(model, threat, goal, targeted_dlr, steps, early_stop)
        x_adv[rows] = ascent.best_of(x, others, restarts, start, take(generator, rows), least)
    return x_adv


def nearest_classes(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """The wrong classes of the RANKED largest logits, the nearest first, were the model linear: N, at most RANKED.

    To the hyperplane on which a class has y's logit it is their gap over the dual norm of the gap's gradient.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        wrong, distance = wrong_classes(logits.detach(), y)[:, :RANKED], []
        for other in wrong.T:
            ahead = gap(logits, y, other)
            (grad,) = torch.autograd.grad(ahead.sum(), x, retain_graph=True)
            distance.append(-ahead.detach() / threat.dual(finite(grad)).clamp_min(1e-30))
    return wrong.gather(1, torch.stack(distance, 1).argsort(dim=1, stable=True))
