"""Values with their uncertainty: shares of a count, estimates, and how a measure spreads over the samples."""

import math
from collections.abc import Iterable

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from robustcls.results.fields import SLACK, Count, Interval, Number, Share, need
from robustcls.results.statistics import quartiles, wilson


@dataclass
class Accuracy:
    """correct of total, with the 95% Wilson interval."""

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
        """The accuracy, as an Estimate calls it."""
        return self.accuracy

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.accuracy:.1%} [{low:.1%}, {high:.1%}], {self.correct} of {self.total}"


@dataclass
class Estimate:
    """A number in [0, 1] that is no share of a count, with its 95% interval."""

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
    """One measure over n samples: median and quartiles; None where no sample has a value."""

    n: Count
    median: Number | None = None
    q1: Number | None = None
    q3: Number | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of the finite values alone: a measure that is not defined on a sample is left out of n."""
        finite = [value for value in map(float, values) if math.isfinite(value)]
        q1, median, q3 = quartiles(finite)
        return cls(len(finite), median, q1, q3)


@dataclass
class Balanced:
    """Balanced accuracy: the mean of the classes' accuracies, over the classes that have samples."""

    num_classes: Count  # that have samples
    clean: Estimate
    robust: Estimate
    of_classes: Count = 0  # that the data has; 0 where the evaluation does not say

    @property
    def over(self) -> str:
        """`over 1 of 2 classes` where some class has no sample, so that nothing is known of it; else ""."""
        return f"over {self.num_classes:,} of {self.of_classes:,} classes" if self.num_classes < self.of_classes else ""


@dataclass
class Rates:
    """How two classes are told apart; None where a class has no sample, or the scores were not kept."""

    sensitivity: Accuracy | None  # of the positive class
    specificity: Accuracy | None  # of the other
    auc: Estimate | None  # area under the ROC curve


@dataclass
class TwoClasses:
    """Sensitivity, specificity and ROC-AUC, on clean images and on the worst that the attacks found."""

    positive: Count  # the label that sensitivity is about
    clean: Rates
    robust: Rates
    rule: str = ""  # what the attacked images and the scores are, in words
    negative: Count | None = None  # the label that specificity is about; None of earlier files: the other of 0 and 1

    @property
    def other(self) -> int:
        """The label that specificity is about."""
        return 1 - self.positive if self.negative is None else self.negative
