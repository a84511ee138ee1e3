"""Signs in the training history that a model did not learn."""

from collections.abc import Sequence

from robustcls.results.records import Chance, Epoch
from robustcls.results.statistics import bonferroni, wilson

FEW_UPDATES = 10  # updates per epoch; with fewer, a learning rate schedule is too short
RISE = 0.25  # rise of the loss above its minimum, as a share of the first epoch's loss; normal variation is a few hundredths


def few_updates(updates: int, epochs: int) -> str:
    """Return a sentence if an epoch has so few updates that a model hardly changes, else ""."""
    if updates >= FEW_UPDATES:
        return ""
    each = f"{updates} update{'s' if updates > 1 else ''}"
    return f"only {each} per epoch, {updates * epochs} in the run: a smaller batch size or more epochs give more"


def first_rise(epochs: Sequence[Epoch]) -> str:
    """Return the warning of `risen_loss` for the first epoch that has one, else ""."""
    return next(filter(None, (risen_loss(epochs[: count + 1]) for count in range(len(epochs)))), "")


def risen_loss(epochs: Sequence[Epoch]) -> str:
    """Return a sentence if the training loss of the last epoch is far above the lowest earlier one, else "".

    It must also be above that of the first epoch, or the epoch before must have risen as far: in a single epoch, the loss may
    be low because the inner attack failed.
    """
    if len(epochs) < 2:
        return ""
    *before, last = epochs
    low, first = min(before, key=lambda one: one.train_loss), before[0].train_loss
    far = low.train_loss + RISE * abs(first)
    if last.train_loss <= far or (last.train_loss <= first and before[-1].train_loss <= far):
        return ""
    return (
        f"the training loss rose from {low.train_loss:.3g} in epoch {low.epoch} to {last.train_loss:.3g} "
        f"in epoch {last.epoch}: training diverges; a lower learning rate or gradients clipped to norm 1 may help"
    )


def above_chance(shares: Sequence[float], chance: Chance | None) -> bool:
    """Whether the best of several accuracies on the same images exceeds that of always predicting the most frequent class.

    Decided by Wilson intervals with a Bonferroni correction, because the best of many values is high by chance. If there are
    so few images that even a perfect model could not pass, any value above chance is enough. True if nothing was measured, or
    if chance is not known, because older runs did not record it.
    """
    if chance is None or not shares:
        return True
    best, z = round(max(shares) * chance.images), bonferroni(len(shares))
    if wilson(chance.images, chance.images, z)[0] <= chance.majority:
        return best > chance.majority * chance.images
    return wilson(best, chance.images, z)[0] > chance.majority


def at_chance(epochs: Sequence[Epoch], chance: Chance | None, *, adversarial: bool) -> str:
    """Return a sentence if no epoch's validation accuracy is significantly above chance, else "".

    adversarial: whether the training was adversarial, so that robust accuracy is considered, too.
    """
    clean = [one.val_clean for one in epochs if one.val_clean is not None]
    robust = [one.val_robust for one in epochs if one.val_robust is not None and adversarial]
    if not above_chance(clean, chance):
        learned, what, shares = "nothing", "clean", clean
    elif not above_chance(robust, chance):
        learned, what, shares = "no robustness", "robust", robust
    else:
        return ""
    assert chance is not None
    best, n = max(shares), chance.images
    always = f"the {chance.majority:.1%} of always predicting the most frequent class"
    if round(best * n) <= chance.majority * n:
        return (
            f"the model has learned {learned}: {what} validation accuracy, {best:.1%} at best, is not above {always} on {n} "
            "images"
        )
    low, high = wilson(round(best * n), n, bonferroni(len(shares)))
    return (
        f"{n} validation images cannot tell {what} accuracy, {best:.1%} at best (95% interval [{low:.1%}, {high:.1%}]), from "
        f"{always}: more of them can"
    )
