"""The two ways in which adversarial training overfits, read from its epochs."""

from collections.abc import Sequence

from robustcls.results.learning import above_chance
from robustcls.results.records import Chance, Epoch
from robustcls.results.statistics import wilson

CATASTROPHIC = 0.20  # of FGSM accuracy above robust accuracy; a sound model stays within a few hundredths
NEARLY_NONE = 0.05  # robust accuracy that is lost whatever the best was
UNTOUCHED = 0.75  # of clean accuracy, which single steps leave where they are withstood in appearance alone
WORTH_SAYING = 0.02  # of robust accuracy below its best
REMEDY = (
    "averaged weights (ema, swa), weight perturbation (awp), sparse weights, an earlier end (patience), stronger augmentation "
    "or more images may help"
)


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


def shortfall(epochs: Sequence[Epoch]) -> tuple[float | None, float | None]:
    """Of the last of these epochs: how far robust validation accuracy is below its best so far, and below that of the
    training batches. None where not measured; epochs that a rollback took back do not count."""
    last, gone = epochs[-1], set(undone(epochs))
    if last.val_robust is None:
        return None, None
    best = max(one.val_robust for place, one in enumerate(epochs) if place not in gone and one.val_robust is not None)
    return best - last.val_robust, None if last.train_robust is None else last.train_robust - last.val_robust


def robust_overfitting(epochs: Sequence[Epoch], chance: Chance | None = None) -> str:
    """A sentence where robust accuracy ended below its best (Rice et al. 2020, arXiv:2002.11569), with what may help, else
    nothing.

    Nothing either where the best is not above chance, for there was nothing to lose, and where the last is within the 95%
    interval that so few images leave the best.
    """
    measured = [one for one in epochs if one.val_robust is not None]
    if not measured or not above_chance([one.val_robust or 0.0 for one in measured], chance):
        return ""
    best, last = max(measured, key=lambda one: (one.val_robust, -one.epoch)), measured[-1]
    high, low = best.val_robust or 0.0, last.val_robust or 0.0
    noise = high - wilson(high * chance.images, chance.images)[0] if chance else 0.0
    if high - low < max(WORTH_SAYING, noise):
        return ""
    meanwhile = ""
    if best.train_robust is not None and last.train_robust is not None and best.train_robust < last.train_robust:
        meanwhile = f", while that of the training batches rose from {best.train_robust:.1%} to {last.train_robust:.1%}"
    return (
        f"robust overfitting: robust validation accuracy fell from {high:.1%} in epoch {best.epoch} to {low:.1%}{meanwhile}; "
        f"ckpt.pt keeps the best; {REMEDY}"
    )
