"""The thresholds of a policy: what each is about, and how an evaluation is held to it."""

from collections.abc import Callable
from typing import NamedTuple

from robustcls.results.balance import balanced_of, class_name, expected_labels, label_name, say_absent, two_classes_of
from robustcls.results.comparison import ClassCounts, count_classes, worst_class
from robustcls.results.records import Accuracy, Evaluation, Rates
from robustcls.results.statistics import bonferroni, wilson

PASS, WARN, FAIL, INCONCLUSIVE, UNJUDGED = "PASS", "WARN", "FAIL", "INCONCLUSIVE", "NOT JUDGED"
THRESHOLDS = {  # what each of them is about
    "min_clean": "clean accuracy",
    "min_robust": "robust accuracy",
    "max_drop": "drop from clean to robust accuracy",
    "min_class_robust": "robust accuracy of the worst class",
    "min_balanced_clean": "clean balanced accuracy",
    "min_balanced_robust": "robust balanced accuracy",
    "min_sensitivity": "sensitivity",
    "min_specificity": "specificity",
    "min_robust_sensitivity": "sensitivity under attack",
    "min_robust_specificity": "specificity under attack",
    "max_ece": "clean calibration error (ECE)",
    "max_adversarial_ece": "adversarial calibration error (ECE)",
    "min_corruption": "mean accuracy under common corruptions",
}
UNDER_ATTACK = (
    "min_robust",
    "max_drop",
    "min_class_robust",
    "min_balanced_robust",
    "min_robust_sensitivity",
    "min_robust_specificity",
    "max_adversarial_ece",
)


class Judged(NamedTuple):
    """What became of a threshold: PASS, FAIL or INCONCLUSIVE, why, and what was measured in short."""

    status: str
    reason: str
    measured: str


def judge_threshold(name: str, evaluation: Evaluation, threshold: float, positive: str | None) -> Judged:
    """Holds an evaluation to one threshold. positive: the class of sensitivity, where the policy names one."""
    if name in _RATES:
        return _rate(name, evaluation, threshold, positive)
    return _JUDGES[name](evaluation, threshold)


def not_measured(name: str) -> Judged:
    return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} was not measured", "")


def _clean(evaluation: Evaluation, threshold: float) -> Judged:
    found = evaluation.clean
    return _at_least("clean accuracy", found.accuracy, found.ci95, threshold)


def _robust(evaluation: Evaluation, threshold: float) -> Judged:
    found = evaluation.robust
    return _at_least("robust accuracy", found.accuracy, found.ci95, threshold)


def _drop(evaluation: Evaluation, threshold: float) -> Judged:
    clean, robust = evaluation.clean, evaluation.robust
    if not clean.total or clean.total != robust.total:
        return not_measured("max_drop")
    broken = clean.correct - robust.correct  # a sample stands only where it was right, so this is a count of samples
    low, high = wilson(broken, clean.total)
    status = PASS if high <= threshold else FAIL if low > threshold else INCONCLUSIVE
    how = {PASS: "at or below", FAIL: "above", INCONCLUSIVE: "around"}[status]
    drop = f"{broken / clean.total:.1%} [{low:.1%}, {high:.1%}]"
    return Judged(
        status, f"the drop from clean to robust accuracy {drop} lies {how} the threshold {threshold:.1%}", drop
    )


def _worst_class(evaluation: Evaluation, threshold: float) -> Judged:
    """Each class has an interval of its own, widened so that all hold together: all must lie above the threshold.

    Without the correction, chance alone would put some class of many on the wrong side.
    """
    counts = count_classes(evaluation.samples)
    if not counts:
        return not_measured("min_class_robust")
    z = bonferroni(len(counts))

    def judge_one(one: ClassCounts, which: str) -> Judged:
        name = class_name(evaluation, one.label)
        interval = list(wilson(one.robust, one.total, z))
        return _at_least(f"robust accuracy of {which} class, {name},", one.accuracy, interval, threshold)

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


def _ece(evaluation: Evaluation, threshold: float) -> Judged:
    found = evaluation.calibration
    if found is None or not found.clean.n:
        return not_measured("max_ece")
    return _plain("max_ece", found.clean.ece, threshold, found.clean.ece <= threshold)


def _adversarial_ece(evaluation: Evaluation, threshold: float) -> Judged:
    found = evaluation.calibration
    if found is None or not found.adversarial.n:
        return not_measured("max_adversarial_ece")
    return _plain("max_adversarial_ece", found.adversarial.ece, threshold, found.adversarial.ece <= threshold)


def _corruption(evaluation: Evaluation, threshold: float) -> Judged:
    found = evaluation.corruptions
    if found is None or found.mean is None:
        return not_measured("min_corruption")
    held = _plain("min_corruption", found.mean, threshold, found.mean >= threshold)
    return held._replace(reason=f"{held.reason}, on n = {found.n:,} samples")


def _balanced_clean(evaluation: Evaluation, threshold: float) -> Judged:
    return _balanced("min_balanced_clean", evaluation, threshold)


def _balanced_robust(evaluation: Evaluation, threshold: float) -> Judged:
    return _balanced("min_balanced_robust", evaluation, threshold)


def _balanced(name: str, evaluation: Evaluation, threshold: float) -> Judged:
    found = balanced_of(evaluation)
    if found is None:
        return not_measured(name)
    part = found.clean if name == "min_balanced_clean" else found.robust
    held = _at_least(THRESHOLDS[name], part.value, part.ci95, threshold)
    if not found.over:
        return held
    empty = found.of_classes - found.num_classes
    best = (found.num_classes * part.ci95[1] + empty) / found.of_classes  # were the classes without samples all right
    which = f"{found.over}: {say_absent(evaluation)}"
    return Judged(FAIL if best < threshold else INCONCLUSIVE, f"{held.reason}, {which}", f"{held.measured} {which}")


_RATES: dict[str, tuple[str, str]] = {  # threshold: the part of two_classes, and which of its rates
    "min_sensitivity": ("clean", "sensitivity"),
    "min_specificity": ("clean", "specificity"),
    "min_robust_sensitivity": ("robust", "sensitivity"),
    "min_robust_specificity": ("robust", "specificity"),
}


def _rate(name: str, evaluation: Evaluation, threshold: float, positive: str | None) -> Judged:
    """Of two classes; the reason names the class, so that nobody takes one for the other."""
    found = two_classes_of(evaluation, positive)
    part, which = _RATES[name]
    rates: Rates | None = getattr(found, part, None)
    rate: Accuracy | None = getattr(rates, which, None)
    if found is None:
        return not_measured(name)
    of = label_name(evaluation, found.positive if which == "sensitivity" else found.other)
    if rate is None:
        missing = f"not measured: no sample of {of}"
        return Judged(INCONCLUSIVE, f"{THRESHOLDS[name]} ({of}) was {missing}", missing)
    held = _at_least(f"{THRESHOLDS[name]} ({of})", rate.accuracy, rate.ci95, threshold)
    return held._replace(measured=f"{of} {held.measured}")


_JUDGES: dict[str, Callable[[Evaluation, float], Judged]] = {
    "min_clean": _clean,
    "min_robust": _robust,
    "max_drop": _drop,
    "min_class_robust": _worst_class,
    "min_balanced_clean": _balanced_clean,
    "min_balanced_robust": _balanced_robust,
    "max_ece": _ece,
    "max_adversarial_ece": _adversarial_ece,
    "min_corruption": _corruption,
}


def _at_least(what: str, share: float, ci95: list[float], threshold: float) -> Judged:
    low, high = ci95
    status = PASS if low >= threshold else FAIL if high < threshold else INCONCLUSIVE
    how = {PASS: "at or above", FAIL: "below", INCONCLUSIVE: "around"}[status]
    measured = f"{share:.1%} [{low:.1%}, {high:.1%}]"
    return Judged(status, f"{what} {measured} lies {how} the threshold {threshold:.1%}", measured)


def _plain(name: str, value: float, threshold: float, holds: bool) -> Judged:
    words = ("at or above", "below") if name.startswith("min") else ("at or below", "above")
    how = words[0] if holds else words[1]
    reason = f"{THRESHOLDS[name]} {value:.1%} lies {how} the threshold {threshold:.1%}, compared without an interval"
    return Judged(PASS if holds else FAIL, reason, f"{value:.1%}, compared without an interval")
