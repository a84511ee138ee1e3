"""Checks of a method's maps: pass, warn or fail, with the value measured and its threshold."""

from torch import Tensor

from robustcls.attribution import nonfinite_remark
from robustcls.results.records import Check, Spread
from robustcls.results.statistics import student_interval

MARK = 0.01  # completeness gap beyond which a map is marked
FEW = 30  # with fewer samples, maps may look no better than random ones by chance
REPEATABLE = 1e-5  # difference allowed between two maps with the same seed, relative to the largest value
NONFINITE = 0.05  # share of a method's maps with values that are not finite above which the check fails
UNLIKE, ALIKE = 0.5, 0.8  # thresholds, relative to the rank correlation of a map with itself under another seed


def check_completeness(gaps: Tensor | None) -> Check:
    if gaps is None:
        return Check(
            "completeness", "not_run", None, None, "the method's maps need not add up to the change of the logit"
        )
    marked = int((~(gaps <= MARK)).sum())
    how = (
        f"{marked} of {len(gaps)} maps have a sum that differs from the change of the logit by more than {MARK:.0%} of it, and "
        "are marked with !"
    )
    return Check("completeness", "warn" if marked else "pass", Spread.of(gaps.tolist()).median, MARK, how)


def check_finite(nonfinite: Tensor) -> Check:
    share = nonfinite.float().mean().item()
    if not share:
        return Check("finite_maps", "pass", 0.0, NONFINITE, f"all values of {len(nonfinite)} maps are finite")
    how = f"{nonfinite_remark(nonfinite)}: look for roots, norms and logarithms at 0 in the model and keep them off their pole"
    return Check("finite_maps", "fail" if share > NONFINITE else "warn", share, NONFINITE, how)


def check_repeatability(maps: Tensor, repeated: Tensor) -> Check:
    worst = (maps - repeated).abs().max().item() / (maps.abs().max().item() or 1.0)
    status, how = "pass", "the same seed gives the same maps"
    if not worst <= REPEATABLE:
        status, how = "fail", "the same seed gives different maps: the method draws random numbers from another source"
    return Check("repeatability", status, worst, REPEATABLE, f"{how} (difference relative to the largest value)")


def check_dependence(name: str, other: str, likeness: Tensor, bound: float) -> Check:
    """Whether the map differs from the map `other`, and by more than from the map under another seed."""
    middle = Spread.of(likeness.abs().tolist()).median
    how = f"median rank correlation with the map {other}; for comparison, {bound:.2f} with the map under another seed"
    if middle is None:  # a constant map has no rank correlation
        return Check(
            name, "warn", None, UNLIKE * bound, f"no map has a rank correlation: one of the two is constant; {how}"
        )
    status = "pass" if middle < UNLIKE * bound else "warn" if middle < ALIKE * bound else "fail"
    return Check(name, status, middle, UNLIKE * bound, how)


def check_order(name: str, gains: Tensor, done: str, moves: str) -> Check:
    """Whether the class's probability changes faster in the order of the map than in that of its displaced copies."""
    gains = gains[gains.isfinite()]
    n = len(gains)
    if n < 2:
        return Check(name, "not_run", None, 0.0, "fewer than two samples")
    mean, (low, _) = student_interval(gains.tolist())
    how = (
        f"pixels {done} by the map: the probability {moves} {'earlier' if mean > 0 else 'later'} by {abs(mean):.3f} of "
        f"the area than by the same map at random other places (gain {mean:+.3f}, 95% interval from {low:+.3f}, n = {n})"
    )
    status = "pass" if low > 0 else "fail" if n >= FEW or mean <= 0 else "warn"
    return Check(name, status, mean, 0.0, how)
