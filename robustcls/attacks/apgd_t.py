"""Targeted Auto-PGD: runs of `apgd` towards one wrong class after another."""

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._goal import Goal
from robustcls.attacks.apgd import Ascent
from robustcls.core.errors import InputError
from robustcls.core.losses import dlr, targeted_dlr, wrong_classes
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits


@traits(mask=True)
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
    """Auto-PGD on the targeted difference of logits ratio, towards the wrong classes with the largest logits, one by one.

    Croce and Hein 2020, arXiv:2003.01690. targets: number of target classes, at most all wrong ones. For a sample that stays
    robust, the attempt that came closest is returned. closest: the first two restarts attack all samples that are still
    robust; the third only those that have at most this share left of the way from the clean image to a misclassification,
    measured by the DLR loss. Each later restart multiplies the share by its square root. start: N,C,H,W, where the runs of
    the first restart begin.
    """
    if targets < 1 or restarts < 1 or not 0 < closest <= 1:
        raise InputError(
            f"apgd_t(targets={targets}, restarts={restarts}, closest={closest}): give 1 or more, and a share in (0, 1]"
        )
    with torch.no_grad():
        logits = model(x)
    others, way = list(wrong_classes(logits, y)[:, :targets].T), dlr(logits, y)  # below 0 if classified correctly

    def least(restart: int) -> Tensor:
        return closest ** ((restart + 1) / 2) * way if restart > 0 else torch.full_like(way, -torch.inf)

    goal = Goal(y, measure=dlr)  # the DLR is scale-invariant, so `least` is comparable across samples
    ascent = Ascent(model, threat, goal, targeted_dlr, steps, early_stop)
    return ascent.best_of(x, others, restarts, start, generator, None if closest == 1 else least)
