"""Whether the numbers of an evaluation agree with each other: a file that was edited or damaged is refused, not believed."""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from robustcls.core.errors import InputError
from robustcls.core.threat import BALL, parse_eps

if TYPE_CHECKING:
    from robustcls.results.records import Evaluation

STATUSES = ("pass", "warn", "fail", "not_run")
SHARES = {  # fields that are shares in [0, 1], where they are measured, by record
    "Accuracy": ("accuracy",),
    "Attack": ("robust_accuracy",),
    "Bin": ("low", "high", "confidence", "accuracy"),
    "Reliability": ("accuracy", "confidence", "ece"),
    "Corruptions": ("mean",),
    "Chance": ("majority",),
    "Estimate": ("value",),
    "Epoch": ("train_clean", "train_robust", "val_clean", "val_robust", "val_fgsm"),
}
COUNTS = {  # fields that count, by record
    "Accuracy": ("correct", "total"),
    "Balanced": ("num_classes", "of_classes"),
    "TwoClasses": ("positive", "negative"),
    "Attack": ("attacked", "broken", "forwards", "backwards", "unique", "censored"),
    "Bin": ("n",),
    "Chance": ("images",),
    "Corruptions": ("n",),
    "Data": ("n", "available"),
    "Explanations": ("n", "flipped", "quality_n"),
    "Likeness": ("n",),
    "MinimumNorm": ("n", "censored"),
    "Model": ("parameters",),
    "NormCurve": ("n",),
    "Reliability": ("n",),
    "Sample": ("label", "clean", "adversarial"),
    "Spread": ("n",),
}
MOST = 1 << 53  # beyond, a count is no longer exact as a number
SLACK = 1e-6


def check_consistent(evaluation: "Evaluation", name: str) -> None:
    """Raises InputError that names the first place where a number cannot be. name: of the file."""
    for path, record in _records(evaluation, ""):
        kind = type(record).__name__
        for field in SHARES.get(kind, ()):
            _need(_between(getattr(record, field), 0, 1), name, path, field, record, "a share from 0 to 1")
        for field in COUNTS.get(kind, ()):
            _need(_between(getattr(record, field), 0, MOST), name, path, field, record, "a count")
        if kind == "Accuracy":
            _check_accuracy(record, name, path)
        elif kind == "Estimate":
            _check_interval(record, record.value, name, path)
        elif kind == "Check":
            _need(record.status in STATUSES, name, path, "status", record, f"one of {', '.join(STATUSES)}")
        elif kind in ("Threat", "CurvePoint"):
            _need(_between(record.eps, 0, math.inf), name, path, "eps", record, "a radius")
        elif kind == "Corruption":
            _need(1 <= record.severity <= 5, name, path, "severity", record, "a severity from 1 to 5")
        elif kind == "Example":
            ranked = all(len(pair) == 2 for pair in (*record.clean_top, *record.adversarial_top))
            _need(ranked, name, path, "clean_top", record, "a list of pairs of class and probability")
    _check_totals(evaluation, name)
    _check_samples(evaluation, name)
    _check_attacks(evaluation, name)
    _check_radii(evaluation, name)


def _records(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value):
        yield path, value
        value = vars(value)
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        if dataclasses.is_dataclass(inner) or isinstance(inner, (dict, list)):
            yield from _records(inner, f"{path}.{key}" if path else str(key))


def _between(value: float | None, low: float, high: float) -> bool:
    return value is None or low - SLACK <= value <= high + SLACK


def _need(holds: bool, name: str, path: str, field: str, record: Any, what: str) -> None:
    if not holds:
        place = f"{path}.{field}" if path else field
        raise InputError(f"{name}: {place}: {getattr(record, field)!r:.40} is not {what}: the file is damaged")


def _check_accuracy(found: Any, name: str, path: str) -> None:
    _need(found.correct <= found.total, name, path, "correct", found, f"a count of {found.total}")
    if found.total:
        close = abs(found.accuracy - found.correct / found.total) < SLACK
        _need(close, name, path, "accuracy", found, f"{found.correct} of {found.total}")
    _check_interval(found, found.accuracy, name, path)


def _check_interval(found: Any, value: float, name: str, path: str) -> None:
    _need(len(found.ci95) == 2, name, path, "ci95", found, "an interval")
    inside = all(_between(end, 0, 1) for end in found.ci95) and _between(value, *found.ci95)
    _need(inside, name, path, "ci95", found, f"an interval around {value:.3g}")


def _check_totals(evaluation: "Evaluation", name: str) -> None:
    clean, robust, samples = evaluation.clean, evaluation.robust, evaluation.samples
    if clean.total != robust.total or robust.correct > clean.correct:
        raise InputError(
            f"{name}: robust: {robust.correct} of {robust.total} cannot be, with {clean.correct} of {clean.total} right on "
            "clean images: the file is damaged"
        )
    if not samples:
        return
    right = sum(one.clean == one.label for one in samples)
    held = sum(one.clean == one.label == one.adversarial for one in samples)
    for part, found, counted in (("clean", clean, right), ("robust", robust, held)):
        if (found.correct, found.total) != (counted, len(samples)):
            raise InputError(
                f"{name}: {part}: {found.correct} of {found.total}, but its samples hold {counted} of {len(samples)}: the "
                "file is damaged"
            )


def _check_samples(evaluation: "Evaluation", name: str) -> None:
    """A broken sample has an example in the ball, of another label, by an attack that ran; another has none."""
    eps, ran, seen = evaluation.threat.eps, {attack.name for attack in evaluation.attacks}, set()
    reach = eps + BALL + eps * SLACK  # of verified examples; a minimum-norm attack's `nearest` may lie farther
    for place, one in enumerate(evaluation.samples):
        path = f"samples.{place}"
        _need(one.index not in seen, name, path, "index", one, "a sample of its own")
        seen.add(one.index)
        _need(_between(one.distance, 0, math.inf), name, path, "distance", one, "a distance")
        near = [far for far in (one.nearest or {}).values() if far is not None]
        _need(all(_between(far, 0, math.inf) for far in near), name, path, "nearest", one, "a list of distances")
        by = one.broken_by
        if by is None:
            _need(one.adversarial == one.clean, name, path, "adversarial", one, "the clean label of an unbroken sample")
            _need(one.distance is None, name, path, "distance", one, "that of a sample that nothing broke")
            missed = one.clean == one.label and min(near, default=math.inf) <= eps * (1 - SLACK)
            _need(not missed, name, path, "nearest", one, "that of a sample that nothing broke in the ball")
            _need(not one.fooled_by, name, path, "fooled_by", one, "of a sample that nothing broke")
            continue
        _need(by in ran, name, path, "broken_by", one, "an attack that ran")
        _need(one.clean == one.label, name, path, "broken_by", one, "able to break what is misclassified without it")
        _need(one.adversarial != one.label, name, path, "adversarial", one, "another label, as a broken sample has")
        inside = one.distance is not None and one.distance <= reach
        _need(inside, name, path, "distance", one, f"inside the ball of eps {evaluation.threat.eps_text}")
        if one.fooled_by is not None:
            known = by in one.fooled_by and ran.issuperset(one.fooled_by)
            _need(known, name, path, "fooled_by", one, "a list of attacks that ran, with broken_by among them")


def _check_attacks(evaluation: "Evaluation", name: str) -> None:
    """What the attacks broke, one after another, is what robust accuracy lacks."""
    standing, total = evaluation.clean.correct, evaluation.clean.total
    by = Counter(one.broken_by for one in evaluation.samples)
    for place, attack in enumerate(evaluation.attacks):
        path = f"attacks.{place}"
        broke = f"at most the {attack.attacked} that it met"
        _need(attack.broken <= attack.attacked, name, path, "broken", attack, broke)
        counted = by[attack.name] if by else attack.broken
        _need(attack.broken == counted, name, path, "broken", attack, f"{counted}, as its samples say")
        standing -= attack.broken
        if total:
            close = abs(attack.robust_accuracy - standing / total) < SLACK
            _need(close, name, path, "robust_accuracy", attack, f"{standing} of {total}, which stand after it")
    holds = not evaluation.attacks or evaluation.robust.correct == standing
    _need(holds, name, "robust", "correct", evaluation.robust, f"the {standing} that stand after the attacks")


def _check_radii(evaluation: "Evaluation", name: str) -> None:
    """A radius is the same as text; a curve passes through robust accuracy and cannot rise."""
    threat, robust, curve = evaluation.threat, evaluation.robust, evaluation.curve or []
    _need(_is_text_of(threat.eps_text, threat.eps), name, "threat", "eps_text", threat, f"{threat.eps:.6g} as text")
    before = None
    for place, point in enumerate(curve):
        path, count = f"curve.{place}", point.robust.correct
        _need(_is_text_of(point.eps_text, point.eps), name, path, "eps_text", point, f"{point.eps:.6g} as text")
        falls = before is None or point.eps < before.eps or count <= before.robust.correct
        _need(falls, name, f"{path}.robust", "correct", point.robust, "at most that of a smaller radius")
        same = point.eps != threat.eps or count == robust.correct
        _need(same, name, f"{path}.robust", "correct", point.robust, f"robust accuracy, {robust.correct}, at its eps")
        before = point


def _is_text_of(text: str, eps: float) -> bool:
    try:
        return math.isclose(parse_eps(text), eps, rel_tol=1e-3, abs_tol=1e-9)
    except InputError:
        return False
