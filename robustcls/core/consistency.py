"""Whether the numbers of an evaluation agree with each other: a file that was edited or damaged is refused, not believed."""

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from robustcls.core.errors import InputError

if TYPE_CHECKING:
    from robustcls.core.records import Evaluation

STATUSES = ("pass", "warn", "fail", "not_run")
SHARES = {  # fields that are shares in [0, 1], where they are measured, by record
    "Accuracy": ("accuracy",),
    "Attack": ("robust_accuracy",),
    "Bin": ("low", "high", "confidence", "accuracy"),
    "Reliability": ("accuracy", "confidence", "ece"),
    "Corruptions": ("mean",),
    "Epoch": ("train_clean", "train_robust", "val_clean", "val_robust", "val_fgsm"),
}
COUNTS = {  # fields that count, by record
    "Accuracy": ("correct", "total"),
    "Attack": ("attacked", "broken", "forwards", "backwards", "unique", "censored"),
    "Bin": ("n",),
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
    _need(len(found.ci95) == 2, name, path, "ci95", found, "an interval")
    inside = all(_between(end, 0, 1) for end in found.ci95) and _between(found.accuracy, *found.ci95)
    _need(inside, name, path, "ci95", found, f"an interval around {found.accuracy:.3g}")


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
