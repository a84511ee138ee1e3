"""Named lists of attacks, by the norm of the threat model."""

__all__ = ["fast", "rand", "standard"]

DRAWS = {"rand": 20}  # of a suite that attacks the expectation of a random model

_USUAL = ["apgd_ce", "apgd_t", "fab_t", "square"]
_STANDARD = {
    "linf": _USUAL,
    "l2": _USUAL,
    "l1": ["apgd_ce(restarts=5)", "apgd_t(targets=5)", "fab_t", "square"],
}


def fast(norm: str) -> list[str]:
    """APGD with cross-entropy, then targeted APGD with DLR, with steps where samples are nearly broken: an upper bound.

    Fewer steps and targets than AutoAttack's, more starts, and those for the samples that come close to an error.
    """
    return ["apgd_ce(steps=20)", "apgd_t(steps=20, targets=3, restarts=8, closest=0.5)"]


def rand(norm: str) -> list[str]:
    """AutoAttack's version for random models (Croce and Hein 2020, arXiv:2003.01690), on the mean of 20 draws (EOT).

    No sample leaves an attack early, for one lucky draw is no success; the verdict is over 20 repeated passes more.
    """
    return ["apgd_ce(early_stop=False)", "apgd_dlr(early_stop=False)"]


def standard(norm: str) -> list[str]:
    """The composition and hyperparameters of AutoAttack's standard version (Croce and Hein 2020, arXiv:2003.01690)."""
    return _STANDARD[norm]
