"""MALT: targeted Auto-PGD towards the classes nearest by linearised distance (Melamed et al. 2024, arXiv:2407.02240)."""

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
from robustcls.core.traits import traits

RANKED = 9  # the wrong classes with the largest logits, whose distances are compared


@traits(mask=True)
def malt(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    targets: int = 9,
    skip: int = 0,
    restarts: int = 1,
    within: float = 1.0,
    early_stop: bool = True,
    start: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """`apgd_t` towards the classes in the order of their linearised distance (MALT, Melamed et al. 2024, arXiv:2407.02240).

    The nearest class alone breaks about as many samples as all nine. skip: leave out this many of the nearest classes, because
    an earlier attack aimed at them. within: attack only samples that are close at `start`: at most this share remains of the
    way from the clean image to a misclassification, by the DLR loss. Each further restart halves the share. start: N,C,H,W;
    with within below 1, a cascade gives the strongest attempt so far. Runs begin at random points.
    """
    if targets < 1 or restarts < 1 or skip < 0 or not 0 < within <= 1:
        raise InputError(
            f"malt(targets={targets}, skip={skip}, restarts={restarts}, within={within}): give 1 or more, skip 0 or more, "
            "and a share in (0, 1]"
        )
    x_adv, rows = x.clone(), at_most_left(within, model, x, y, start)
    if len(rows) > 0:
        x, y = x[rows], y[rows]
        with torch.no_grad():
            way = dlr(model(x), y)  # below 0 if classified correctly
        others = nearest_classes(model, x, y, threat)[0][:, skip : skip + targets]
        least = None if within == 1 else lambda restart: within / 2 ** (restart + 1) * way
        ascent = Ascent(model, threat, Goal(y, measure=dlr), targeted_dlr, steps, early_stop)
        x_adv[rows] = ascent.best_of(x, list(others.T), restarts, None, take(generator, rows), least)
    return x_adv


def nearest_classes(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """Return the wrong classes with the RANKED largest logits, nearest first, and their distances; each N,T, T <= RANKED.

    The distance is that of the linearised model: the gap between the logits of y and of the class, divided by the dual norm
    of the gap's gradient.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        wrong, distance = wrong_classes(logits.detach(), y)[:, :RANKED], []
        for other in wrong.T:
            ahead = gap(logits, y, other)
            (grad,) = torch.autograd.grad(ahead.sum(), x, retain_graph=True)
            distance.append(-ahead.detach() / threat.dual(finite(grad)).clamp_min(1e-30))
    distances, order = torch.stack(distance, 1).sort(dim=1, stable=True)
    return wrong.gather(1, order), distances
