"""The severity of errors by a tree of classes: the number of edges from the label up to the common group."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from robustcls.core.class_tree import ClassTree, read_tree
from robustcls.results.accuracy import Accuracy
from robustcls.results.fields import SLACK, Count, Distance, need
from robustcls.results.statistics import mean_between
from robustcls.results.subject import Model

if TYPE_CHECKING:
    from robustcls.results.robustness import Sample


@dataclass
class Mistakes:
    """Misclassified samples by severity: the edges from the label up to the lowest group with the predicted class."""

    by_distance: list[Count]  # number of samples at 1, 2, ... edges
    mean: Distance | None  # mean number of edges; None: no errors
    ci95: list[Distance] | None
    chance: Distance | None  # expected mean if all wrong classes of the same labels were equally likely
    apart: Accuracy  # errors whose predicted class shares only the root with the label, of all errors

    @model_validator(mode="after")
    def _agree(self) -> "Mistakes":
        total = sum(self.by_distance)
        need(self.apart.total == total, "apart.total", self.apart.total, f"the {total} mistakes")
        if total:
            mean = sum(edges * count for edges, count in enumerate(self.by_distance, 1)) / total
            close = self.mean is not None and math.isclose(self.mean, mean, abs_tol=SLACK)
            need(close, "mean", self.mean, f"{mean:.6g}, as by_distance says")
        return self

    @property
    def total(self) -> int:
        return self.apart.total

    def __str__(self) -> str:
        if self.mean is None or self.ci95 is None:
            return "none"
        return f"{self.mean:.2f} [{self.ci95[0]:.2f}, {self.ci95[1]:.2f}] edges up, {self.apart.accuracy:.1%} across the top"


@dataclass
class Severity:
    """The severity of the errors of an evaluation, by a tree of its classes."""

    tree: str  # file name of the tree
    sha256: str  # digest of the classes and the groups above each
    height: Count  # edges from the deepest class to the root
    clean: Mistakes
    robust: Mistakes  # errors under attack, including those on clean images


def tree_of(path: str, model: Model) -> ClassTree:
    """Read the class tree of an evaluated model from a file. Raises InputError."""
    return read_tree(path, model.classes, model.name)


def severity_of(samples: Sequence["Sample"], tree: ClassTree) -> Severity:
    """Return the severity of errors by a tree, clean and under attack. Without a predicted class, the distance is maximal.

    Attacks stop at the first wrong class that they find and do not search for a distant one. Robustness against confusions
    between groups is measured by an attack on `coarse(MODEL, tree)`.
    """
    clean = _mistakes([(one.label, one.clean) for one in samples], tree)
    return Severity(
        Path(tree.source).name, tree.sha256, tree.height, clean,
        _mistakes([(one.label, one.adversarial) for one in samples], tree),
    )  # fmt: skip


def _mistakes(pairs: Sequence[tuple[int, int | None]], tree: ClassTree) -> Mistakes:
    """Return the errors among the samples. pairs: label and predicted class of each sample."""
    wrong = [(label, predicted) for label, predicted in pairs if label != predicted]
    edges = [tree.distance(label, predicted) for label, predicted in wrong]
    apart = sum(distance > len(tree.above[label]) for distance, (label, _) in zip(edges, wrong, strict=True))
    counts = [edges.count(distance) for distance in range(1, tree.height + 1)]
    if not wrong:
        return Mistakes(counts, None, None, None, Accuracy.of(0, 0))
    others = len(tree.above) - 1
    by_chance = {
        label: sum(tree.distance(label, other) for other in range(others + 1)) / others
        for label in {pair[0] for pair in wrong}
    }
    mean, ci95 = mean_between(edges, 1, tree.height)
    chance = math.fsum(by_chance[label] for label, _ in wrong) / len(wrong)
    return Mistakes(counts, mean, list(ci95), chance, Accuracy.of(apart, len(wrong)))
