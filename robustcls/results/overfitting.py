"""The two ways in which adversarial training overfits, read from its epochs."""

from collections.abc import Sequence

from robustcls.results.learning import above_chance
from robustcls.results.records import Chance, Epoch
from robustcls.results.statistics import wilson

CATASTROPHIC = 0.20  # of FGSM accuracy above robust accuracy; a sound model stays within a few hundredths
NEARLY_NONE = 0.05  # robust accuracy that is lost whatever the best was
UNTOUCHED = 0.75  # of clean accuracy, which single steps leave where they are withstood in appearance alone
WORTH_SAYING = 0.02  # of robust accuracy below its best


def catastrophes(epochs: Sequence[Epoch]) -> list[int] | None:
    """The positions where only single-step attacks are still withstood (Wong et al. 2020, arXiv:2001.03994).

    Robust accuracy is then far below that under one step, and below half of its best so far or nearly none. A model that
    never was robust may be on its way: it has collapsed only where one step hardly lowers its accuracy. None: not
    measured.
    """
    best, found, known = 0.0, [], False
    for place, one in enumerate(epochs):
        fgsm, robust = one.val_fgsm, one.val_robust
        if fgsm is None or robust is None:
            continue
        best, known = max(best, robust), True
        lost = best >= NEARLY_NONE or fgsm >= UNTOUCHED * (one.val_clean or 0.0)
        if lost and fgsm - robust > CATASTROPHIC and robust < max(best / 2, NEARLY_NONE):
            found.append(place)
    return found if known else None


def undone(epochs: Sequence[Epoch]) -> list[int]:
    """The positions of the epochs that a rollback took back: a later one has the same number or a smaller one."""
    return [place for place, one in enumerate(epochs) if any(later.epoch <= one.epoch for later in epochs[place + 1 :])]


def robust_overfitting(epochs: Sequence[Epoch], chance: Chance | None = None) -> str:
    """One sentence where robust accuracy ended below its best (Rice et al. 2020, arXiv:2002.11569), else nothing.

    Nothing either where the best is not above chance, for there was nothing to lose, and where the last is within the 95%
    interval that so few images leave the best.
    """
    measured = [(one.val_robust, one.epoch) for one in epochs if one.val_robust is not None]
    if not measured or not above_chance([share for share, _ in measured], chance):
        return ""
    (best, when), (last, _) = max(measured, key=lambda pair: (pair[0], -pair[1])), measured[-1]
    noise = best - wilson(best * chance.images, chance.images)[0] if chance else 0.0
    if best - last < max(WORTH_SAYING, noise):
        return ""
    return (
        f"robust overfitting: robust validation accuracy fell from {best:.1%} in epoch {when} to {last:.1%}; "
        "ckpt.pt keeps the best"
    )
