"""Named lists of attacks."""

__all__ = ["fast", "standard"]


def fast() -> list[str]:
    """APGD with cross-entropy, then targeted APGD with DLR, 100 steps each: an upper bound on robust accuracy."""
    return ["apgd_ce", "apgd_t"]


def standard() -> list[str]:
    """The composition and hyperparameters of AutoAttack's standard version (Croce and Hein 2020, arXiv:2003.01690)."""
    return ["apgd_ce", "apgd_t", "fab_t", "square"]
