"""Targeted Auto-PGD, from the nearest class on, were the model linear: MALT (Melamed et al. 2024, arXiv:2407.02240)."""

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

RANKED = 9  # wrong classes of the largest logits, whose distances are compared


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

    Of nine classes the first breaks about what all nine do. skip: leaves out the first so many, which an earlier attack had.
    within: only samples to which `start` has left at most this share of the way from the clean image to an error, by the
    DLR; for each further restart the share is halved. start: N,C,H,W; in a cascade, for a share below 1, the strongest
    attempt so far. Runs begin at random.
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
            way = dlr(model(x), y)  # below 0 for what is right
        others = nearest_classes(model, x, y, threat)[0][:, skip : skip + targets]
        least = None if within == 1 else lambda restart: within / 2 ** (restart + 1) * way
        ascent = Ascent(model, threat, Goal(y, measure=dlr), targeted_dlr, steps, early_stop)
        x_adv[rows] = ascent.best_of(x, list(others.T), restarts, None, take(generator, rows), least)
    return x_adv


def nearest_classes(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """The wrong classes of the RANKED largest logits and their distances, the nearest first, were the model linear: both N, at
    most RANKED.

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
    distances, order = torch.stack(distance, 1).sort(dim=1, stable=True)
    return wrong.gather(1, order), distances
