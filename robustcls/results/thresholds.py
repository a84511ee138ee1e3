"""The thresholds of a policy, and how an evaluation is judged by each of them."""

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
    """The result for a threshold: PASS, FAIL or INCONCLUSIVE, the reason, and the measured value in short form."""

    status: str
    reason: str
    measured: str


class About(NamedTuple):
    """The settings of a policy that apply to all thresholds."""

    threat: ThreatModel | None = None  # None: the threat model of the evaluation
    detector: str | None = None
    positive: str | None = None  # the positive class


class Threshold(NamedTuple):
    """A threshold: its quantity in words, the function that judges it, and whether it is about results under attack."""

    text: str
    judge: Callable[[str, Evaluation, float, About], Judged]
    under_attack: bool
    unit: Unit = SHARE


def judge_threshold(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Judge an evaluation by one threshold."""
    return _TABLE[name].judge(name, evaluation, threshold, about)


def unit_of(name: str) -> Unit:
    """Return the unit of a threshold."""
    return _TABLE[name].unit


def check_bound(name: str, value: float) -> None:
    """Raise InputError unless a value is valid in the unit of the threshold."""
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
    """Judge a threshold that a measure declares. field: the field of the evaluation with the record of the measure."""
    record = getattr(evaluation, field)
    value, n = (None if record is None else declared.read(record)) or (None, 0)
    if value is None or not n:
        return not_measured(name, declared.how)
    held = _compare(name, declared.text, value, threshold)
    return held._replace(reason=f"{held.reason}, on n = {n:,} {declared.counted}") if declared.counted else held


def _accuracy(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Judge clean or robust accuracy; for a random model, the accuracy of a single pass."""
    source = evaluation.under_noise or evaluation
    return _compare(name, THRESHOLDS[name], source.clean if name == "min_clean" else source.robust, threshold)


def _certified(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Judge certified accuracy at the norm and radius of the policy, else of the attacks, else at the first radius of the
    curve, as in the report.

    Bounds are known only at the radii that were tried. Between two of them, the certified accuracy at the larger one is a
    lower bound.
    """
    certified, threat = evaluation.certified, about.threat or evaluation.threat
    if certified is None:
        return not_measured(name, "the evaluation has no certificates")
    if evaluation.rejection or about.detector:
        return not_measured(name, "the certificates are of the classifier without a detector")
    if why := other_classifier(evaluation):
        return not_measured(name, why)
    if certified.norm != threat.norm:
        return not_measured(
            name, f"the certificates are in {certified.norm}, and the threat is {threat.norm} {threat.eps_text}"
        )
    stated = ""
    if not threat.eps and about.threat is None and (first := stated_radius(evaluation)):
        threat = ThreatModel(certified.norm, first)  # type: ignore[arg-type]
        stated = ", the first radius of the file: a policy with norm and eps names another"
    if not threat.eps:
        why = "nothing names a radius above 0: state norm and eps in the policy"
        return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} was not judged: {why}", f"not judged: {why}")
    within, tried = f"within {threat.norm} {threat.eps_text}", tried_at(certified, threat.eps)
    if tried is None:
        more = "take more draws" if certified.method == "smoothing" else "certify at that radius, too"
        why = f"{certified.how} can say nothing beyond {certified.text(largest_radius(certified))}: {more}"
        return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} {within} was not measured: {why}", "")
    held = _compare(name, f"{THRESHOLDS[name]} {within}", certified.at(threat.eps), threshold)
    between = not math.isclose(tried, threat.eps, rel_tol=HOLDS)
    more = f", proven at {certified.text(tried)}" if between else ""
    status = INCONCLUSIVE if between and held.status == FAIL else held.status
    if status != held.status:
        more += f": at {threat.eps_text} itself, which was not tried, it may be higher"
    return Judged(status, f"{held.reason}{more}{stated}, by {certified.how}", f"{held.measured} {within}{more}{stated}")


def _drop(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    clean, robust = evaluation.clean, evaluation.robust
    if not clean.total or clean.total != robust.total:
        return not_measured(name)
    # Only samples whose clean image is classified correctly can be robust, so the difference is a count of samples.
    return _compare(
        name, f"the {THRESHOLDS[name]}", Accuracy.of(clean.correct - robust.correct, clean.total), threshold
    )


def _worst_class(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Judge the robust accuracy of every class. All intervals, with a Bonferroni correction, must lie above the threshold.

    Without the correction, with many classes some class would be on the wrong side by chance.
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
    if worst not in by_status[status]:  # a class with fewer samples may have a lower interval
        reason += "; " + judge_one(worst_class(by_status[status]), "another").reason
    expected = expected_labels(evaluation)
    empty = len(expected - {one.label for one in counts})
    if empty and status == PASS:
        without = f"{empty} of {len(expected)} classes was not measured: no samples"
        return Judged(INCONCLUSIVE, f"robust accuracy of {without}", without)
    corrected = f"; the intervals hold for all {len(counts)} classes together (Bonferroni)" if len(counts) > 1 else ""
    return Judged(status, reason + corrected, f"{class_name(evaluation, worst.label)} {named.measured}")


def _balanced(name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    balanced = balanced_of(evaluation)
    if balanced is None:
        return not_measured(name)
    part = balanced.clean if name == "min_balanced_clean" else balanced.robust
    held = _compare(name, THRESHOLDS[name], part, threshold)
    if not balanced.over:
        return held
    empty = balanced.of_classes - balanced.num_classes
    best = (balanced.num_classes * part.ci95[1] + empty) / balanced.of_classes  # if classes without samples had 100%
    which = f"{balanced.over}: {say_absent(evaluation)}"
    return Judged(FAIL if best < threshold else INCONCLUSIVE, f"{held.reason}, {which}", f"{held.measured} {which}")


def _rate(part: str, which: str, name: str, evaluation: Evaluation, threshold: float, about: About) -> Judged:
    """Judge sensitivity or specificity. The reason names the class, to avoid confusion."""
    two_classes = two_classes_of(evaluation, about.positive)
    rates: Rates | None = getattr(two_classes, part, None)
    rate: Accuracy | None = getattr(rates, which, None)
    if two_classes is None:
        return not_measured(name)
    label = label_name(evaluation, two_classes.positive if which == "sensitivity" else two_classes.other)
    if rate is None:
        missing = f"not measured: no sample of {label}"
        return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} ({label}) was {missing}", missing)
    held = _compare(name, f"{THRESHOLDS[name]} ({label})", rate, threshold)
    return held._replace(measured=f"{label} {held.measured}")


def _compare(name: str, text: str, result: Accuracy | Estimate | Repeated | Ranged | float, threshold: float) -> Judged:
    """Judge a result by its whole interval, or by its value if it has no interval. text: the quantity in words."""
    value, ends = (result, ()) if isinstance(result, (int, float)) else (result.value, result.ci95)
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
    return Judged(status, f"{text} {measured} lies {how} the threshold {show(threshold)}{bare}", measured + bare)


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
