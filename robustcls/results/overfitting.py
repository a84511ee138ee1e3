"""Catastrophic overfitting and robust overfitting, detected from the training history."""

from collections.abc import Sequence

from robustcls.results.learning import above_chance
from robustcls.results.records import Chance, Epoch
from robustcls.results.statistics import wilson

CATASTROPHIC = 0.20  # FGSM accuracy minus robust accuracy; for a sound model it is a few hundredths
NEARLY_NONE = 0.05  # robust accuracy below this counts as lost, whatever the best was
UNTOUCHED = 0.75  # share of clean accuracy that remains under FGSM if the gradients mislead it
WORTH_SAYING = 0.02  # smallest loss of robust accuracy that is reported
REMEDY = (
    "averaged weights (ema, swa), weight perturbation (awp), sparse weights, an earlier end (patience), stronger augmentation "
    "or more images may help"
)


def catastrophes(epochs: Sequence[Epoch]) -> list[int] | None:
    """Return the positions of epochs with catastrophic overfitting (Wong et al. 2020, arXiv:2001.03994); None: not measured.

    In such an epoch, robust accuracy is far below FGSM accuracy, and it is below half of its best value so far or almost 0.
    A model that was never robust may still be learning. It counts as collapsed only if FGSM hardly lowers its accuracy.
    Epochs in which the radius still grew do not count, as the model is not yet trained to be robust.
    """
    best, collapsed, known = 0.0, [], False
    for place, one in enumerate(epochs):
        fgsm, robust = one.val_fgsm, one.val_robust
        if fgsm is None or robust is None or one.growing:
            continue
        best, known = max(best, robust), True
        lost = best >= NEARLY_NONE or fgsm >= UNTOUCHED * (one.val_clean or 0.0)
        if lost and fgsm - robust > CATASTROPHIC and robust < max(best / 2, NEARLY_NONE):
            collapsed.append(place)
    return collapsed if known else None


def undone(epochs: Sequence[Epoch]) -> list[int]:
    """Return the positions of epochs that a rollback undid: a later epoch has the same or a smaller number."""
    return [place for place, one in enumerate(epochs) if any(later.epoch <= one.epoch for later in epochs[place + 1 :])]


def shortfall(epochs: Sequence[Epoch]) -> tuple[float | None, float | None]:
    """Return how far robust validation accuracy of the last epoch is below its best value and below that of training.

    None if not measured. Epochs that a rollback undid do not count.
    """
    last, gone = epochs[-1], set(undone(epochs))
    if last.val_robust is None:
        return None, None
    best = max(one.val_robust for place, one in enumerate(epochs) if place not in gone and one.val_robust is not None)
    return best - last.val_robust, None if last.train_robust is None else last.train_robust - last.val_robust


def robust_overfitting(epochs: Sequence[Epoch], chance: Chance | None = None) -> str:
    """Return a sentence about robust overfitting (Rice et al. 2020, arXiv:2002.11569) and remedies, else "".

    It is reported if robust accuracy ended below its best value. The best must be above chance, and the last must lie below
    the 95% interval of the best. Epochs with catastrophic overfitting, or that a rollback undid, do not count.
    """
    others = {*(catastrophes(epochs) or ()), *undone(epochs)}
    measured = [one for place, one in enumerate(epochs) if one.val_robust is not None and place not in others]
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
