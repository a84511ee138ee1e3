"""Accuracy for unbalanced classes: what it estimates, balanced accuracy, and measures for two classes."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from robustcls.core.errors import InputError, unknown
from robustcls.results.comparison import count_classes, held, was_right
from robustcls.results.records import Accuracy, Balanced, Data, Estimate, Evaluation, Model, Rates, Sample, TwoClasses
from robustcls.results.statistics import auc_interval, mean_of_shares, roc_auc

# What accuracy estimates, depending on how the samples were selected
WHOLE = "accuracy on the split itself: all of it was evaluated"
GIVEN = "accuracy on images like these: how they were chosen is not known here"
SHARES = "accuracy on the whole split: every class has its share of it among the samples, to within one sample"
EVENLY = "accuracy where every class is equally frequent, not on the split: the classes were taken in turn"
IN_TURN = "taken in turn over the classes"  # text in the `sampling` of older evaluations
OTHERS = "sensitivity and specificity are the share of a class that is named right: another of the model's {} outputs is wrong"
LISTED = 10  # maximum number of classes named in a sentence


class Measure(NamedTuple):
    """A measure that does not depend on class frequencies, on clean images and under attack; None: not measured."""

    name: str
    clean: Accuracy | Estimate | None
    robust: Accuracy | Estimate | None
    spec: str  # format specification
    over: str = ""  # the classes that it covers, if not all

    @property
    def full_name(self) -> str:
        """The name, followed by the classes that the measure covers, if not all."""
        return f"{self.name} {self.over}".strip()

    def rows(self, before: str = "", narrow: bool = True) -> list[tuple[str, ...]]:
        """Return table rows: one, or two in a narrow table if the covered classes are named. before: prefix of the name."""
        row = (before + (self.name if narrow else self.full_name), *self.write(self.clean), *self.write(self.robust))
        return [row, (f"  {self.over}", "", "", "", "")] if narrow and self.over else [row]

    def write(self, estimate: Accuracy | Estimate | None) -> tuple[str, str]:
        """Return a value of this measure and its interval as text; dashes if it was not measured."""
        if estimate is None:
            return "-", "-"
        low, high = estimate.ci95
        return format(estimate.value, self.spec), f"[{low:{self.spec}}, {high:{self.spec}}]"


def measures_by_class(evaluation: Evaluation) -> list[Measure]:
    """Return balanced accuracy and, for two classes, sensitivity, specificity and ROC-AUC; none without samples."""
    balanced, two = balanced_of(evaluation), two_classes_of(evaluation)
    measures = []
    if balanced:
        measures.append(Measure("Balanced accuracy", balanced.clean, balanced.robust, ".1%", balanced.over))
    if two:
        names = [label_name(evaluation, label) for label in (two.positive, two.other)]
        for name, part, spec in (
            (f"Sensitivity ({names[0]})", "sensitivity", ".1%"),
            (f"Specificity ({names[1]})", "specificity", ".1%"),
            ("ROC-AUC", "auc", ".3f"),
        ):
            measures.append(Measure(name, getattr(two.clean, part), getattr(two.robust, part), spec))
    return measures


def needs_balance(evaluation: Evaluation) -> bool:
    """Whether accuracy alone may mislead: class sizes differ by at least two samples, or there are two classes."""
    return is_uneven(evaluation.samples) or two_classes_of(evaluation) is not None


def what_is_estimated(evaluation: Evaluation) -> str:
    """Return what accuracy on the samples estimates, in words; `not recorded` if the evaluation does not say."""
    data = evaluation.data
    if data.estimates:
        return data.estimates
    if data.available and data.n == data.available:
        return WHOLE
    return EVENLY if IN_TURN in data.sampling else "not recorded"


def is_uneven(samples: Sequence[Sample]) -> bool:
    """Whether a class has at least two more samples than another, and thus more weight in accuracy."""
    counts = [one.total for one in count_classes(samples)]
    return bool(counts) and max(counts) - min(counts) > 1


def say_counts(evaluation: Evaluation) -> str:
    """Return the number of samples per class, or the smallest and largest number if there are many classes; "" if none."""
    counts = count_classes(evaluation.samples)
    if not counts:
        return ""
    if len(counts) <= LISTED:
        return ", ".join(f"{label_name(evaluation, one.label)} {one.total:,}" for one in counts)
    least, most = (choose(counts, key=lambda one: one.total) for choose in (min, max))
    if least.total == most.total:
        return f"{least.total:,} of each of {len(counts):,} classes"
    ends = (f"{one.total:,} ({label_name(evaluation, one.label)})" for one in (least, most))
    return f"{len(counts):,} classes of {' to '.join(ends)} samples"


def say_absent(evaluation: Evaluation) -> str:
    """Return which classes have no samples, in words; "" if every class has samples."""
    split = evaluation.data.split_counts
    present = {sample.label for sample in evaluation.samples}
    absent = sorted(expected_labels(evaluation) - present) if present else []
    if not absent:
        return ""
    named = [
        label_name(evaluation, label) + (f" ({split[label]:,} in the split)" if label < len(split) else "")
        for label in absent[:LISTED]
    ]
    more = f" and {len(absent) - LISTED:,} more classes" if len(absent) > LISTED else ""
    return f"no sample of {', '.join(named)}{more}"


def expected_labels(evaluation: Evaluation) -> set[int]:
    """Return the labels of the data. The model may have more classes."""
    mapped = evaluation.data.class_map
    return (
        set(mapped.outputs)
        if mapped
        else set(range(max(len(evaluation.data.split_counts), len(evaluation.model.classes))))
    )


def class_name(evaluation: Evaluation, label: int | None) -> str:
    """Return the name of a class, or its number if there are no names; "no answer" for None (no predicted class)."""
    if label is None:
        return "no answer"
    classes = evaluation.model.classes
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def label_name(evaluation: Evaluation, label: int) -> str:
    """Return the data's name of the class that is mapped to this output, else the result of `class_name`."""
    return _data_names(evaluation.data).get(label) or class_name(evaluation, label)


def _data_names(data: Data) -> dict[int, str]:
    """Return the data's class name for each output to which exactly one class is mapped."""
    if data.class_map is None:
        return {}
    counts = Counter(data.class_map.outputs)
    pairs = zip(data.class_map.classes, data.class_map.outputs, strict=False)
    return {output: name for name, output in pairs if counts[output] == 1}


def balanced_of(evaluation: Evaluation) -> Balanced | None:
    """Return balanced accuracy as recorded, or computed from the samples of an older evaluation; None without samples."""
    balanced = evaluation.balanced or measure_balanced(evaluation.samples)
    if balanced is None or balanced.of_classes:
        return balanced
    return dataclasses.replace(balanced, of_classes=max(len(expected_labels(evaluation)), balanced.num_classes))


def measure_balanced(samples: Sequence[Sample]) -> Balanced | None:
    """Return balanced accuracy, clean and robust: the unweighted mean over the classes (Brodersen et al. 2010).

    Only classes with samples count; None if there are none.
    """
    counts = count_classes(samples)
    if not counts:
        return None
    clean, robust = (
        _estimate(*mean_of_shares([(getattr(one, part), one.total) for one in counts])) for part in ("clean", "robust")
    )
    return Balanced(len(counts), clean, robust)


def two_classes_of(evaluation: Evaluation, positive: str | int | None = None) -> TwoClasses | None:
    """Return the measures for two classes, as recorded or computed from the samples of an older evaluation.

    None if there are not two classes. positive: name or label of the positive class (default: as recorded, else the second).
    Raises InputError if it is neither of the two.
    """
    model, data, recorded = evaluation.model, evaluation.data, evaluation.two_classes
    labels = (recorded.other, recorded.positive) if recorded else two_labels(model, data)
    label = None if positive is None else find_positive(positive, labels, model, data)
    if recorded is None and labels is not None and evaluation.samples:
        rule = OTHERS.format(f"{len(model.classes):,}") if len(model.classes) > 2 else ""
        recorded = measure_two_classes(evaluation.samples, labels, rule=rule)
    if recorded is None or label is None or label == recorded.positive:
        return recorded
    clean, robust = (
        dataclasses.replace(one, sensitivity=one.specificity, specificity=one.sensitivity)
        for one in (recorded.clean, recorded.robust)
    )  # the area under the ROC curve stays the same when classes are swapped, because the scores change their sign
    return dataclasses.replace(recorded, positive=label, negative=recorded.positive, clean=clean, robust=robust)


def two_labels(model: Model, data: Data, labels: Sequence[int] = ()) -> tuple[int, int] | None:
    """Return the labels of two classes, the positive one by default last; None if there are not two classes.

    They are the outputs of a model with two outputs, or the outputs to which two classes of the data are mapped. labels: the
    labels of the samples, used if the data has no class map.
    """
    if len(model.classes) == 2:
        return 0, 1
    distinct = list(dict.fromkeys(data.class_map.outputs)) if data.class_map else sorted(set(labels))
    return (distinct[0], distinct[1]) if len(distinct) == 2 else None


def say_others(evaluation: Evaluation) -> str:
    """Return the definition of sensitivity and specificity for a model with more than two outputs, else ""."""
    outputs = len(evaluation.model.classes)
    return OTHERS.format(f"{outputs:,}") if outputs > 2 and two_classes_of(evaluation) else ""


def find_positive(name: str | int, labels: tuple[int, int] | None, model: Model, data: Data) -> int:
    """Return the label of the positive class, one of `labels`, by its name in the data or the model, or by its number.

    Raises InputError if there are not two classes, or if neither has this name.
    """
    if labels is None:
        count = len(set(data.class_map.outputs)) if data.class_map else len(model.classes)
        there = "is 1 class" if count == 1 else f"are {count} classes"
        raise InputError(f"positive class {name!r}: there {there}, not two: leave it out")
    if not isinstance(name, str) and name in labels:
        return int(name)
    named = {name: label for label, name in enumerate(model.classes) if label in labels}
    named |= {name: label for label, name in _data_names(data).items() if label in labels}
    if not isinstance(name, str) or name not in named:
        raise unknown("positive class", name, list(named))
    return named[name]


def measure_two_classes(
    samples: Sequence[Sample],
    labels: tuple[int, int],
    clean_scores: Sequence[float] | None = None,
    robust_scores: Sequence[float] | None = None,
    rule: str = "",
) -> TwoClasses:
    """Return sensitivity, specificity and ROC-AUC of samples with two labels.

    labels: the negative label, then the positive one. scores: per sample, higher for the positive class; NaN counts as wrong.
    Without scores there is no ROC-AUC.
    """
    negative, positive = labels
    return TwoClasses(
        positive,
        _rates(samples, was_right, positive, clean_scores),
        _rates(samples, held, positive, robust_scores),
        rule,
        negative,
    )


def _rates(
    samples: Sequence[Sample], right: Callable[[Sample], bool], positive: int, scores: Sequence[float] | None
) -> Rates:
    total = Counter(sample.label == positive for sample in samples)
    correct = Counter(sample.label == positive for sample in samples if right(sample))
    sensitivity, specificity = (
        Accuracy.of(correct[kind], total[kind]) if total[kind] else None for kind in (True, False)
    )
    auc = None
    if scores is not None and sensitivity is not None and specificity is not None:
        ones = [sample.label == positive for sample in samples]
        worst = [
            (-math.inf if one else math.inf) if math.isnan(score) else score
            for score, one in zip(scores, ones, strict=True)
        ]
        area = roc_auc(worst, ones)
        auc = _estimate(area, auc_interval(area, total[True], total[False]))
    return Rates(sensitivity, specificity, auc)


def _estimate(value: float, interval: tuple[float, float]) -> Estimate:
    low, high = interval
    return Estimate(value, [min(low, value), max(high, value)])  # rounding errors may exclude the value
