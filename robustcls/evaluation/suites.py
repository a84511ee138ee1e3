"""Named lists of attacks, by the norm of the threat model."""

from robustcls.core.errors import InputError

__all__ = ["fast", "rand", "standard", "targeted", "verdict"]

NOTHING_AIMS_IN_L0 = "no built-in attack aims at a class in l0: leave out `target`, or use another norm"
DRAWS = {"rand": 20}  # draws per pass, for suites that attack the expectation of a random model
# For suites whose last attack first runs on this many of the samples still robust, drawn at random, and on the others only if
# it breaks one of them.
SAMPLED = {"verdict": 300}

_USUAL = ["apgd_ce", "apgd_t", "fab_t", "square"]
_STANDARD = {
    "linf": _USUAL,
    "l2": _USUAL,
    "l1": ["apgd_ce(restarts=5)", "apgd_t(targets=5)", "fab_t", "square"],
}
_FAST = {
    1: ["apgd_ce(steps=20)", "apgd_t(steps=20, targets=3, restarts=8, closest=0.5)"],
    2: [
        "malt(steps=20, targets=1)",
        "apgd_pm(steps=20)",
        "malt(steps=20, targets=3, skip=1, restarts=6, within=0.4)",
        "square(p_init=0.1, look=50)",
        "square(p_init=0.1, look=200, within=0.1)",
    ],
}


def fast(norm: str, *, version: int = 2) -> list[str]:
    """Auto-PGD of 20 steps towards the nearest class, then on the probability margin; more attacks on what came close.

    Samples that are nearly misclassified are attacked towards further classes. All that are left get a short run of Square,
    which continues for samples on which it makes progress. In l0, where gradients have no steepest step, the suite is
    sigma-zero. version: 1 is APGD-CE, then targeted APGD with restarts; evaluations without a version used it.
    """
    if version not in _FAST:
        raise InputError(f"fast(version={version}) is not known: give {' or '.join(map(str, _FAST))}")
    return ["sigma_zero"] if norm == "l0" else _FAST[version]


def rand(norm: str) -> list[str]:
    """AutoAttack's version for random models (Croce and Hein 2020, arXiv:2003.01690), on the mean of 20 draws (EOT).

    No sample leaves an attack early, because success on a single draw may be luck. Accuracy is then measured over 20 further
    passes.
    """
    _check_known("rand", norm)
    return ["apgd_ce(early_stop=False)", "apgd_dlr(early_stop=False)"]


def standard(norm: str) -> list[str]:
    """The composition and hyperparameters of AutoAttack's standard version (Croce and Hein 2020, arXiv:2003.01690)."""
    _check_known("standard", norm)
    return _STANDARD[norm]


def targeted(norm: str) -> list[str]:
    """Auto-PGD towards one class, on the targeted DLR, then on the cross-entropy: the default with `target`."""
    if norm == "l0":
        raise InputError(NOTHING_AIMS_IN_L0)
    _check_known("targeted", norm)
    return ["apgd_dlr(steps=50, restarts=3)", "apgd_ce(steps=50)"]


def verdict(norm: str) -> list[str]:
    """`fast`, more targets, FAB, then 5,000 queries of Square on 300 of the samples still robust, which bound the rest.

    If Square breaks none of the 300, it would break less than 1% of all samples still robust, with 95% confidence
    (0.05^(1/300), as in the rule of three). If it breaks one, it runs on all of them. This is not AutoAttack's composition;
    for that, use `standard`.
    """
    _check_known("verdict", norm)
    return [*fast(norm), "apgd_t(steps=40, targets=5)", "fab_t(steps=30, targets=3)", "square"]


def _check_known(suite: str, norm: str) -> None:
    if norm not in _STANDARD:
        raise InputError(f"{suite} has no {norm}: use `suite=fast`, or `attacks=sigma_zero`")
