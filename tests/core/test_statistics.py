import random

import pytest

from robustcls.core.seeds import mix
from robustcls.core.statistics import mcnemar, paired_difference, wilson

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # R: prop.test(x, n, correct = FALSE)$conf.int
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (431, 1000, 0.4006395, 0.4618960),
        (81, 263, 0.2552770, 0.3661974),
    ],
)
def test_wilson(correct, total, low, high):
    assert wilson(correct, total) == (pytest.approx(low, abs=2e-4), pytest.approx(high, abs=2e-4))
    theirs = stats.binomtest(correct, total).proportion_ci(0.95, "wilson")
    assert wilson(correct, total) == (pytest.approx(theirs.low, abs=1e-12), pytest.approx(theirs.high, abs=1e-12))


def test_wilson_holds_the_estimate():
    assert wilson(0, 0) == (0.0, 1.0)
    for total in (1, 2, 3, 7, 100, 10_000):
        for correct in {0, 1, total // 2, total - 1, total}:
            low, high = wilson(correct, total)
            assert 0 <= low <= correct / total <= high <= 1


def pairs(both, only_first, only_second, neither):
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 20), (0, 30), (700, 800), (2000, 1000)])
def test_mcnemar(b, c):
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(*pairs(50, b, c, 7)) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(*pairs(0, c, b, 0)) == pytest.approx(expected, rel=1e-9)


def test_paired_difference_of_the_paper():
    """Newcombe 1998, Statistics in Medicine 17:2635, table III: p1 - p2, method 10."""
    for cells, difference, low, high in (
        ((36, 12, 2, 0), 0.2, 0.0562, 0.3290),
        ((43, 0, 0, 7), 0.0, -0.0642, 0.0642),
        ((20, 12, 2, 16), 0.2, 0.0562, 0.3292),
    ):
        both, first, second, neither = cells
        found, interval = paired_difference(*pairs(both, second, first, neither))  # ours is second minus first
        assert found == pytest.approx(difference)
        assert interval == (pytest.approx(low, abs=6e-3), pytest.approx(high, abs=6e-3))


def test_paired_difference():
    assert paired_difference([], []) == (0.0, (-1.0, 1.0))
    draw = random.Random(0)
    first, second = ([draw.random() < p for _ in range(200)] for p in (0.6, 0.8))
    difference, (low, high) = paired_difference(first, second)
    assert difference == pytest.approx((sum(second) - sum(first)) / 200)
    assert -1 <= low < difference < high <= 1
    backwards, (low_back, high_back) = paired_difference(second, first)
    assert (backwards, low_back, high_back) == pytest.approx((-difference, -high, -low))


def test_pairs_must_match():
    for function in (mcnemar, paired_difference):
        with pytest.raises(ValueError, match="zip"):
            function([True], [True, False])


def test_seeds_are_unrelated():
    seeds = {mix(a, b, c) for a in range(10) for b in range(10) for c in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mix(1, 2) != mix(2, 1)
    assert mix(0) != mix(0, 0)
    assert mix(-1, 3) >= 0
    flips = [bin(mix(seed) ^ mix(seed + 1)).count("1") for seed in range(200)]
    assert 25 < sum(flips) / 200 < 39, "half of 63 bits"
