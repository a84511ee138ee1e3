"""Whether a model learned at all, read from its epochs."""

from collections.abc import Sequence

from robustcls.results.records import Chance, Epoch
from robustcls.results.statistics import bonferroni, wilson

FEW_UPDATES = 10  # per epoch, below which a schedule has hardly begun when it ends
RISE = 0.25  # of the first epoch's loss, above the lowest so far; from epoch to epoch it varies by a few hundredths


def few_updates(updates: int, epochs: int) -> str:
    """One sentence where an epoch has so few updates that a model hardly changes, else nothing."""
    if updates >= FEW_UPDATES:
        return ""
    each = f"{updates} update{'s' if updates > 1 else ''}"
    return f"only {each} per epoch, {updates * epochs} in the run: a smaller batch size or more epochs give more"


def first_rise(epochs: Sequence[Epoch]) -> str:
    """What `risen_loss` says of the first epoch of which it says anything."""
    return next(filter(None, (risen_loss(epochs[: count + 1]) for count in range(len(epochs)))), "")


def risen_loss(epochs: Sequence[Epoch]) -> str:
    """One sentence where the training loss of the last of these epochs is far above the lowest before it, else nothing."""
    *before, last = epochs
    if not before:
        return ""
    low = min(before, key=lambda one: one.train_loss)
    if last.train_loss - low.train_loss <= RISE * abs(before[0].train_loss):
        return ""
    return (
        f"the training loss rose from {low.train_loss:.3g} in epoch {low.epoch} to {last.train_loss:.3g} "
        f"in epoch {last.epoch}: training diverges; a lower learning rate or gradients clipped to norm 1 may help"
    )


def above_chance(shares: Sequence[float], chance: Chance | None) -> bool:
    """Whether the best of several accuracies on the same images is beyond that of always predicting the most frequent class.

    By Wilson intervals that hold together (Bonferroni), as the best of many is high by luck alone; of so few images that
    even no error would not show it, more than chance is enough. True where nothing was measured, or chance is not known:
    runs did not always record it.
    """
    if chance is None or not shares:
        return True
    best, z = round(max(shares) * chance.images), bonferroni(len(shares))
    if wilson(chance.images, chance.images, z)[0] <= chance.majority:
        return best > chance.majority * chance.images
    return wilson(best, chance.images, z)[0] > chance.majority


def at_chance(epochs: Sequence[Epoch], chance: Chance | None, *, adversarial: bool) -> str:
    """One sentence where no epoch's validation accuracy is shown to be beyond chance, else nothing.

    adversarial: whether robust accuracy, where it was measured, was trained for.
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
