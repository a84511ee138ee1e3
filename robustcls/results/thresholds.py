"""The thresholds of a policy: what each is about, and how an evaluation is held to it."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from robustcls.core import measures
from robustcls.core.errors import InputError
from robustcls.core.measures import BYTES, SHARE, Ranged, Unit
from robustcls.core.threat import ThreatModel
from robustcls.results.balance import balanced_of, class_name, expected_labels, label_name, say_absent, two_classes_of
from robustcls.results.bracket import largest_radius, other_classifier, stated_radius, tried_at
from robustcls.results.certified import HOLDS
from robustcls.results.comparison import ClassCounts, count_classes, worst_class
from robustcls.results.records import Accuracy, Estimate, Evaluation, Rates, Repeated
from robustcls.results.statistics import bonferroni, wilson

PASS, WARN, FAIL, INCONCLUSIVE, UNJUDGED = "PASS", "WARN", "FAIL", "INCONCLUSIVE", "NOT JUDGED"


class Judged(NamedTuple):
    """What became of a threshold: PASS, FAIL or INCONCLUSIVE, why, and what was measured in short."""

    status: str
    reason: str
    measured: str


class About(NamedTuple):
    """What a policy says of all its thresholds."""

    threat: ThreatModel | None = None  # None: that of the evaluation
    detector: str | None = None
    positive: str | None = None  # the class of sensitivity


class Threshold(NamedTuple):
    """A threshold: what it is about, how an evaluation is held to it, and whether it is about accuracy under attack."""

    text: str
    judge: Callable[[str, Evaluation, float, About], Judged]
    under_attack: bool
    unit: Unit = SHARE


def judge_threshold(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Holds an evaluation to one threshold."""
    return _TABLE[name].judge(name, evaluation, threshold, about)


def unit_of(name: str) -> Unit:
    """What a threshold's bound is a number of."""
    return _TABLE[name].unit


def check_bound(name: str, value: float) -> None:
    """Raises InputError unless a bound is a number of the threshold's unit."""
    unit = unit_of(name)
    if unit.holds(value):
        return
    if unit is SHARE:
        meant = f"; did you mean {value / 100:g}?" if 1 < value <= 100 else ", such as 0.40"
        raise InputError(f"{name} {value} is not a share: give {unit.such}{meant}")
    raise InputError(f"{name} = {value:g} is out of range: give {unit.such}")


def not_measured(name: str, how: str = "") -> Judged:
    return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} was not measured" + (f": {how}" if how else ""), "")


def _of_measure(
    field: str, declared: measures.Threshold, name: str, evaluation: Evaluation, threshold: float, about: About
) -> Judged:
    """By what a measure declares; its record is in this field of the evaluation."""
    record = getattr(evaluation, field)
    value, n = (None if record is None else declared.read(record)) or (None, 0)
    if value is None or not n:
        return not_measured(name, declared.how)
    held = _compare(name, declared.text, value, threshold)
    return held._replace(reason=f"{held.reason}, on n = {n:,} {declared.counted}") if declared.counted else held


def _accuracy(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Of a random model, that of one pass."""
    found = evaluation.under_noise or evaluation
    return _compare(name, THRESHOLDS[name], found.clean if name == "min_clean" else found.robust, threshold)


def _certified(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """By the certificates at the norm and radius of the policy, or else of the attacks; without attacks at the first radius
    of their curve, as a report shows them.

    Bounds know of the radii that were tried alone: at one between two of them at least what the larger has is certified.
    """
    found, threat = evaluation.certified, about.threat or evaluation.threat
    if found is None:
        return not_measured(name, "the evaluation has no certificates")
    if evaluation.rejection or about.detector:
        return not_measured(name, "the certificates are of the classifier without a detector")
    if why := other_classifier(evaluation):
        return not_measured(name, why)
    if found.norm != threat.norm:
        return not_measured(
            name, f"the certificates are in {found.norm}, and the threat is {threat.norm} {threat.eps_text}"
        )
    stated = ""
    if not threat.eps and about.threat is None and (first := stated_radius(evaluation)):
        threat = ThreatModel(found.norm, first)  # type: ignore[arg-type]
        stated = ", the first radius of the file: a policy with norm and eps names another"
    if not threat.eps:
        why = "nothing names a radius above 0: state norm and eps in the policy"
        return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} was not judged: {why}", f"not judged: {why}")
    within, tried = f"within {threat.norm} {threat.eps_text}", tried_at(found, threat.eps)
    if tried is None:
        more = "take more draws" if found.method == "smoothing" else "certify at that radius, too"
        why = f"{found.how} can say nothing beyond {found.text(largest_radius(found))}: {more}"
        return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} {within} was not measured: {why}", "")
    held = _compare(name, f"{THRESHOLDS[name]} {within}", found.at(threat.eps), threshold)
    between = not math.isclose(tried, threat.eps, rel_tol=HOLDS)
    more = f", proven at {found.text(tried)}" if between else ""
    status = INCONCLUSIVE if between and held.status == FAIL else held.status
    if status != held.status:
        more += f": at {threat.eps_text} itself, which was not tried, it may be higher"
    return Judged(status, f"{held.reason}{more}{stated}, by {found.how}", f"{held.measured} {within}{more}{stated}")


def _drop(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    clean, robust = evaluation.clean, evaluation.robust
    if not clean.total or clean.total != robust.total:
        return not_measured(name)
    # Only a sample that is right on its clean image can be robust, so the difference is a count of samples.
    return _compare(
        name, f"the {THRESHOLDS[name]}", Accuracy.of(clean.correct - robust.correct, clean.total), threshold
    )


def _worst_class(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Each class has an interval of its own, widened so that all hold together: all must lie above the threshold.

    Without the correction, chance alone would put some class of many on the wrong side.
    """
    counts = count_classes(evaluation.samples)
    if not counts:
        return not_measured(name)
    z = bonferroni(len(counts))

    def judge_one(one: ClassCounts, which: str) -> Judged:
        what = f"robust accuracy of {which} class, {class_name(evaluation, one.label)},"
        return _compare(name, what, Estimate(one.accuracy, list(wilson(one.robust, one.total, z))), threshold)

    worst = worst_class(counts)
    by_status: dict[str, list[ClassCounts]] = {}
    for one in counts:
        by_status.setdefault(judge_one(one, "a").status, []).append(one)
    status = next(one for one in (FAIL, INCONCLUSIVE, PASS) if one in by_status)
    named = judge_one(worst, "the worst")
    reason = named.reason
    if worst not in by_status[status]:  # a class of few samples, whose interval reaches further
        reason += "; " + judge_one(worst_class(by_status[status]), "another").reason
    expected = expected_labels(evaluation)
    empty = len(expected - {one.label for one in counts})
    if empty and status == PASS:
        without = f"{empty} of {len(expected)} classes was not measured: no samples"
        return Judged(INCONCLUSIVE, f"robust accuracy of {without}", without)
    corrected = f"; the intervals hold for all {len(counts)} classes together (Bonferroni)" if len(counts) > 1 else ""
    return Judged(status, reason + corrected, f"{class_name(evaluation, worst.label)} {named.measured}")


def _balanced(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    found = balanced_of(evaluation)
    if found is None:
        return not_measured(name)
    part = found.clean if name == "min_balanced_clean" else found.robust
    held = _compare(name, THRESHOLDS[name], part, threshold)
    if not found.over:
        return held
    empty = found.of_classes - found.num_classes
    best = (found.num_classes * part.ci95[1] + empty) / found.of_classes  # were the classes without samples all right
    which = f"{found.over}: {say_absent(evaluation)}"
    return Judged(FAIL if best < threshold else INCONCLUSIVE, f"{held.reason}, {which}", f"{held.measured} {which}")


def _rate(part: str, which: str, name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Of two classes; the reason names the class, so that nobody takes one for the other."""
    found = two_classes_of(evaluation, about.positive)
    rates: Rates | None = getattr(found, part, None)
    rate: Accuracy | None = getattr(rates, which, None)
    if found is None:
        return not_measured(name)
    of = label_name(evaluation, found.positive if which == "sensitivity" else found.other)
    if rate is None:
        missing = f"not measured: no sample of {of}"
        return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} ({of}) was {missing}", missing)
    held = _compare(name, f"{THRESHOLDS[name]} ({of})", rate, threshold)
    return held._replace(measured=f"{of} {held.measured}")


def _compare(name: str, what: str, found: Accuracy | Estimate | Repeated | Ranged | float, threshold: float) -> Judged:
    """By the whole interval; by the value alone where there is no interval."""
    value, ends = (found, ()) if isinstance(found, (int, float)) else (found.value, found.ci95)
    low, high = ends or (value, value)
    if name.startswith("min"):
        passed, failed, words = low >= threshold, high < threshold, ("at or above", "below")
    else:
        passed, failed, words = high <= threshold, low > threshold, ("at or below", "above")
    status = PASS if passed else FAIL if failed else INCONCLUSIVE
    how = {PASS: words[0], FAIL: words[1], INCONCLUSIVE: "around"}[status]
    unit = unit_of(name)
    show = unit.show
    measured = show(value, *ends)
    bare = "" if ends or unit is BYTES else ", compared without an interval"  # a size is exact
    return Judged(status, f"{what} {measured} lies {how} the threshold {show(threshold)}{bare}", measured + bare)


_TABLE: dict[str, Threshold] = {
    "min_clean": Threshold("clean accuracy", _accuracy, False),
    "min_robust": Threshold("robust accuracy", _accuracy, True),
    "max_drop": Threshold("drop from clean to robust accuracy", _drop, True),
    "min_class_robust": Threshold("robust accuracy of the worst class", _worst_class, True),
    "min_certified": Threshold("certified accuracy", _certified, False),
    "min_balanced_clean": Threshold("clean balanced accuracy", _balanced, False),
    "min_balanced_robust": Threshold("robust balanced accuracy", _balanced, True),
    "min_sensitivity": Threshold("sensitivity", partial(_rate, "clean", "sensitivity"), False),
    "min_specificity": Threshold("specificity", partial(_rate, "clean", "specificity"), False),
    "min_robust_sensitivity": Threshold("sensitivity under attack", partial(_rate, "robust", "sensitivity"), True),
    "min_robust_specificity": Threshold("specificity under attack", partial(_rate, "robust", "specificity"), True),
} | {
    name: Threshold(one.text, partial(_of_measure, measure.name, one), one.under_attack, one.unit)
    for measure in measures.measures()
    for name, one in measure.thresholds.items()
}
THRESHOLDS = {name: one.text for name, one in _TABLE.items()}
UNDER_ATTACK = {name for name, one in _TABLE.items() if one.under_attack}
