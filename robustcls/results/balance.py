"""Accuracy where the classes differ in number: what it estimates, balanced accuracy, and how two classes are told apart."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from robustcls.core.errors import InputError, unknown
from robustcls.results.comparison import count_classes, held, was_right
from robustcls.results.records import Accuracy, Balanced, Data, Estimate, Evaluation, Model, Rates, Sample, TwoClasses
from robustcls.results.statistics import auc_interval, mean_of_shares, roc_auc

# What accuracy estimates, by how the samples were chosen.
WHOLE = "accuracy on the split itself: all of it was evaluated"
GIVEN = "accuracy on images like these: how they were chosen is not known here"
SHARES = "accuracy on the whole split: every class has its share of it among the samples, to within one sample"
EVENLY = "accuracy where every class is equally frequent, not on the split: the classes were taken in turn"
IN_TURN = "taken in turn over the classes"  # how evaluations made earlier say that they did so
OTHERS = "sensitivity and specificity are the share of a class that is named right: another of the model's {} outputs is wrong"
LISTED = 10  # classes that a sentence names


class Measure(NamedTuple):
    """A number that does not depend on how frequent the classes are, clean and under attack; None: not measured."""

    name: str
    clean: Accuracy | Estimate | None
    robust: Accuracy | Estimate | None
    spec: str  # how it is written
    over: str = ""  # the classes that it is about, where that is not all of them

    @property
    def full_name(self) -> str:
        """The name, with the classes that it is about where that is not all of them."""
        return f"{self.name} {self.over}".strip()

    def rows(self, before: str = "", narrow: bool = True) -> list[tuple[str, ...]]:
        """Its row of a table; in a narrow one, another below for the classes that it is about. before: in front of the name."""
        row = (before + (self.name if narrow else self.full_name), *self.write(self.clean), *self.write(self.robust))
        return [row, (f"  {self.over}", "", "", "", "")] if narrow and self.over else [row]

    def write(self, found: Accuracy | Estimate | None) -> tuple[str, str]:
        """A value of this measure and its interval; dashes where it was not measured."""
        if found is None:
            return "-", "-"
        low, high = found.ci95
        return format(found.value, self.spec), f"[{low:{self.spec}}, {high:{self.spec}}]"


def measures_by_class(evaluation: Evaluation) -> list[Measure]:
    """Balanced accuracy, and of two classes sensitivity, specificity and ROC-AUC; none without samples."""
    balanced, two = balanced_of(evaluation), two_classes_of(evaluation)
    found = []
    if balanced:
        found.append(Measure("Balanced accuracy", balanced.clean, balanced.robust, ".1%", balanced.over))
    if two:
        names = [label_name(evaluation, label) for label in (two.positive, two.other)]
        for name, part, spec in (
            (f"Sensitivity ({names[0]})", "sensitivity", ".1%"),
            (f"Specificity ({names[1]})", "specificity", ".1%"),
            ("ROC-AUC", "auc", ".3f"),
        ):
            found.append(Measure(name, getattr(two.clean, part), getattr(two.robust, part), spec))
    return found


def needs_balance(evaluation: Evaluation) -> bool:
    """Whether accuracy alone would mislead: classes differ by two samples or more, or there are two classes."""
    return is_uneven(evaluation.samples) or two_classes_of(evaluation) is not None


def what_is_estimated(evaluation: Evaluation) -> str:
    """What accuracy on the samples estimates, in words; `not recorded` where the evaluation does not tell."""
    data = evaluation.data
    if data.estimates:
        return data.estimates
    if data.available and data.n == data.available:
        return WHOLE
    return EVENLY if IN_TURN in data.sampling else "not recorded"


def is_uneven(samples: Sequence[Sample]) -> bool:
    """Whether some class has at least two samples more than another, so that accuracy weighs it more."""
    counts = [one.total for one in count_classes(samples)]
    return bool(counts) and max(counts) - min(counts) > 1


def say_counts(evaluation: Evaluation) -> str:
    """How many samples each class has: by name where they are few, else the least and the most; "" without samples."""
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
    """Which classes have no sample, so that nothing is known of them; "" where every class has one."""
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
    """The labels that the data has: a model may know more classes than these."""
    mapped = evaluation.data.class_map
    return (
        set(mapped.outputs)
        if mapped
        else set(range(max(len(evaluation.data.split_counts), len(evaluation.model.classes))))
    )


def class_name(evaluation: Evaluation, label: int | None) -> str:
    """The name of a class, or its number where the evaluation holds none; None: the model named no class."""
    if label is None:
        return "no answer"
    classes = evaluation.model.classes
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def label_name(evaluation: Evaluation, label: int) -> str:
    """The data's own name of a class, where it has one that is mapped to this output, else as `class_name` says."""
    return _data_names(evaluation.data).get(label) or class_name(evaluation, label)


def _data_names(data: Data) -> dict[int, str]:
    """The data's name of each output that stands for one of its classes alone."""
    if data.class_map is None:
        return {}
    counts = Counter(data.class_map.outputs)
    pairs = zip(data.class_map.classes, data.class_map.outputs, strict=False)
    return {output: name for name, output in pairs if counts[output] == 1}


def balanced_of(evaluation: Evaluation) -> Balanced | None:
    """Balanced accuracy, as recorded, or of the samples of an evaluation made earlier; None without samples."""
    found = evaluation.balanced or measure_balanced(evaluation.samples)
    if found is None or found.of_classes:
        return found
    return dataclasses.replace(found, of_classes=max(len(expected_labels(evaluation)), found.num_classes))


def measure_balanced(samples: Sequence[Sample]) -> Balanced | None:
    """The mean of the classes' accuracies, clean and robust, each class counting alike (Brodersen et al. 2010).

    Over the classes that have samples; None where there are none.
    """
    counts = count_classes(samples)
    if not counts:
        return None
    clean, robust = (
        _estimate(*mean_of_shares([(getattr(one, part), one.total) for one in counts])) for part in ("clean", "robust")
    )
    return Balanced(len(counts), clean, robust)


def two_classes_of(evaluation: Evaluation, positive: str | int | None = None) -> TwoClasses | None:
    """How two classes are told apart, as recorded, or of the samples of an evaluation made earlier; None for more classes.

    positive: the name of the class that sensitivity is about; as recorded, else the second, unless given. Raises
    InputError for a name that is none of the two.
    """
    model, data, found = evaluation.model, evaluation.data, evaluation.two_classes
    labels = (found.other, found.positive) if found else two_labels(model, data)
    label = None if positive is None else find_positive(positive, labels, model, data)
    if found is None and labels is not None and evaluation.samples:
        rule = OTHERS.format(f"{len(model.classes):,}") if len(model.classes) > 2 else ""
        found = measure_two_classes(evaluation.samples, labels, rule=rule)
    if found is None or label is None or label == found.positive:
        return found
    clean, robust = (
        dataclasses.replace(one, sensitivity=one.specificity, specificity=one.sensitivity)
        for one in (found.clean, found.robust)
    )  # the area under the curve is the same for either class, for the scores change their sign
    return dataclasses.replace(found, positive=label, negative=found.positive, clean=clean, robust=robust)


def two_labels(model: Model, data: Data, labels: Sequence[int] = ()) -> tuple[int, int] | None:
    """The labels of two classes, the usual positive one last; None where there are more, or fewer.

    They are those of a model with two outputs, or the outputs that two classes of the data are mapped to. labels: of the
    samples, where the data names no classes of its own.
    """
    if len(model.classes) == 2:
        return 0, 1
    found = list(dict.fromkeys(data.class_map.outputs)) if data.class_map else sorted(set(labels))
    return (found[0], found[1]) if len(found) == 2 else None


def say_others(evaluation: Evaluation) -> str:
    """What sensitivity and specificity are where the model knows more than the two classes; "" where it does not."""
    outputs = len(evaluation.model.classes)
    return OTHERS.format(f"{outputs:,}") if outputs > 2 and two_classes_of(evaluation) else ""


def find_positive(name: str | int, labels: tuple[int, int] | None, model: Model, data: Data) -> int:
    """The label of the positive class, one of `labels`, by the data's name, the model's, or its number.

    Raises InputError where there are not two classes, or neither has this name.
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
    """Sensitivity, specificity and ROC-AUC of samples that have one of two labels.

    labels: the negative one, then the positive one. scores: of each sample, the higher the more the positive class; NaN
    counts as wrong. Without them there is no ROC-AUC.
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
    return Estimate(value, [min(low, value), max(high, value)])  # a rounding error may lie between them
