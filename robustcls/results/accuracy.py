"""Values with their uncertainty: accuracies, other estimates, and the distribution of a measure over samples."""

import math
from collections.abc import Iterable

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from robustcls.results.fields import SLACK, Count, Interval, Number, Share, need
from robustcls.results.statistics import quartiles, wilson


@dataclass
class Accuracy:
    """The share of correct samples with its 95% Wilson interval."""

    correct: Count
    total: Count
    accuracy: Share
    ci95: Interval
    kind: str = ""

    @model_validator(mode="after")
    def _agree(self) -> "Accuracy":
        need(self.correct <= self.total, "correct", self.correct, f"a count of {self.total}")
        ratio = self.correct / self.total if self.total else self.accuracy
        need(abs(self.accuracy - ratio) < SLACK, "accuracy", self.accuracy, f"{self.correct} of {self.total}")
        need_around(self.ci95, self.accuracy)
        return self

    @classmethod
    def of(cls, correct: int, total: int, kind: str = "") -> "Accuracy":
        return cls(correct, total, correct / total if total else 0.0, list(wilson(correct, total)), kind)

    @property
    def value(self) -> float:
        """The accuracy, under the name that Estimate uses."""
        return self.accuracy

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.accuracy:.1%} [{low:.1%}, {high:.1%}], {self.correct} of {self.total}"


@dataclass
class Estimate:
    """A number in [0, 1] that is not a share of a count, with its 95% interval."""

    value: Share
    ci95: Interval

    @model_validator(mode="after")
    def _agree(self) -> "Estimate":
        need_around(self.ci95, self.value)
        return self


def need_around(interval: list[float], value: float) -> None:
    inside = interval[0] - SLACK <= value <= interval[1] + SLACK
    need(inside, "ci95", interval, f"an interval around {value:.3g}")


@dataclass
class Spread:
    """Median and quartiles of a measure over n samples; None if no sample has a value."""

    n: Count
    median: Number | None = None
    q1: Number | None = None
    q3: Number | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Use only the finite values: samples for which the measure is undefined do not count in n."""
        finite = [value for value in map(float, values) if math.isfinite(value)]
        q1, median, q3 = quartiles(finite)
        return cls(len(finite), median, q1, q3)


@dataclass
class Balanced:
    """Balanced accuracy: the mean accuracy over the classes that have samples."""

    num_classes: Count  # number of classes with samples
    clean: Estimate
    robust: Estimate
    of_classes: Count = 0  # number of classes of the data; 0 if not recorded

    @property
    def over(self) -> str:
        """`over 1 of 2 classes` if a class has no sample, so that its accuracy is unknown; else ""."""
        return f"over {self.num_classes:,} of {self.of_classes:,} classes" if self.num_classes < self.of_classes else ""


@dataclass
class Rates:
    """Rates of a two-class problem; None if a class has no sample, or if the scores were not kept."""

    sensitivity: Accuracy | None  # accuracy on the positive class
    specificity: Accuracy | None  # accuracy on the negative class
    auc: Estimate | None  # area under the ROC curve


@dataclass
class TwoClasses:
    """Sensitivity, specificity and ROC-AUC, on clean images and on the worst images that the attacks found."""

    positive: Count  # label of the positive class
    clean: Rates
    robust: Rates
    rule: str = ""  # how the attacked images and the scores are defined, in words
    negative: Count | None = None  # label of the negative class; None in older files: the other one of 0 and 1

    @property
    def other(self) -> int:
        """The label of the negative class."""
        return 1 - self.positive if self.negative is None else self.negative
