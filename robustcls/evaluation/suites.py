"""Named lists of attacks, by the norm of the threat model."""

from robustcls.core.errors import InputError

__all__ = ["fast", "standard"]

_USUAL = ["apgd_ce", "apgd_t", "fab_t", "square"]
_STANDARD = {
    "linf": _USUAL,
    "l2": _USUAL,
    "l1": ["apgd_ce(restarts=5)", "apgd_t(targets=5)", "fab_t", "square"],
}


def fast(norm: str) -> list[str]:
    """APGD with cross-entropy, then targeted APGD with DLR, with steps where samples are nearly broken: an upper bound.

    Fewer steps and targets than AutoAttack's, more starts, and those for the samples that come close to an error. In l0,
    where gradients have no steepest step, sigma-zero.
    """
    if norm == "l0":
        return ["sigma_zero"]
    return ["apgd_ce(steps=20)", "apgd_t(steps=20, targets=3, restarts=8, closest=0.5)"]


def standard(norm: str) -> list[str]:
    """The composition and hyperparameters of AutoAttack's standard version (Croce and Hein 2020, arXiv:2003.01690)."""
    if norm not in _STANDARD:
        raise InputError(f"AutoAttack's standard has no {norm}: take `suite=fast`, or `attacks=sigma_zero`")
    return _STANDARD[norm]
