"""Classes and pairs of evaluations."""

import dataclasses

import pytest
from sample_records import tiny_evaluation

from robustcls.core.comparison import ClassCounts, count_classes, pair, worst_class
from robustcls.core.records import Evaluation, Sample


def evaluation(*kinds: tuple[int, int, int]) -> Evaluation:
    """kinds: label, clean and adversarial prediction of each sample."""
    samples = [Sample(i, *kind, None, None) for i, kind in enumerate(kinds)]
    return dataclasses.replace(tiny_evaluation(), samples=samples)


def test_classes_are_counted_by_label():
    one = evaluation((3, 3, 3), (0, 0, 1), (3, 1, 1), (3, 3, 0))
    assert count_classes(one.samples) == [ClassCounts(0, 1, 1, 0), ClassCounts(3, 3, 2, 1)]
    assert count_classes([]) == []


@pytest.mark.parametrize(
    ("counts", "label"),
    [
        ([(0, 10, 9, 5), (1, 10, 9, 4), (2, 100, 99, 60)], 1),
        ([(0, 10, 9, 4), (1, 20, 9, 8), (2, 20, 9, 8)], 1),  # equal shares: most samples, then first label
        ([(0, 4, 4, 0), (1, 10, 9, 0)], 1),
    ],
)
def test_the_worst_class_has_the_lowest_robust_accuracy(counts, label):
    rows = [ClassCounts(*row) for row in counts]
    assert worst_class(rows).label == worst_class(rows[::-1]).label == label


def test_a_pair_counts_who_alone_is_right():
    first = evaluation(*[(0, 0, 0)] * 6, *[(0, 0, 1)] * 3, (0, 1, 1))
    second = evaluation(*[(0, 0, 0)] * 2, *[(0, 0, 1)] * 4, *[(0, 0, 0)] * 3, (0, 0, 1))
    clean, robust = pair(first, second)
    assert (clean.part, robust.part) == ("clean", "robust")
    assert (clean.only_first, clean.only_second, clean.difference) == (0, 1, pytest.approx(0.1))
    assert (robust.only_first, robust.only_second, robust.difference) == (4, 3, pytest.approx(-0.1))
    assert robust.low < robust.difference < robust.high
    assert (clean.p, robust.p) == (1, 1)
    losing = pair(first, evaluation(*[(0, 0, 1)] * 10))[1]
    assert (losing.only_first, losing.p) == (6, pytest.approx(2 / 2**6))
