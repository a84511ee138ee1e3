"""Named lists of attacks."""

__all__ = ["fast", "standard"]


def fast() -> list[str]:
    """APGD with cross-entropy, then targeted APGD with DLR, with steps where samples are nearly broken: an upper bound.

    Fewer steps and targets than AutoAttack's, more starts, and those for the samples that came closest.
    """
    return ["apgd_ce(steps=20)", "apgd_t(steps=20, targets=3, restarts=8, closest=0.5)"]


def standard() -> list[str]:
    """The composition and hyperparameters of AutoAttack's standard version (Croce and Hein 2020, arXiv:2003.01690)."""
    return ["apgd_ce", "apgd_t", "fab_t", "square"]
