import random

import pytest

from robustcls.core.seeds import mix
from robustcls.results.statistics import (
    Z95,
    auc_interval,
    bonferroni,
    mcnemar,
    mean_of_shares,
    paired_difference,
    quartiles,
    roc_auc,
    wilson,
)

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


@pytest.mark.parametrize("count", [1, 2, 10, 1000])
def test_bonferroni_widens_the_intervals(count):
    z = bonferroni(count)
    assert z == pytest.approx(stats.norm.ppf(1 - 0.025 / count))
    theirs = stats.binomtest(81, 263).proportion_ci(1 - 0.05 / count, "wilson")
    assert wilson(81, 263, z) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_one_interval_needs_no_correction():
    assert bonferroni(1) == pytest.approx(Z95, abs=1e-12)


def pairs(both, only_first, only_second, neither):
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return first, second


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 20), (0, 30), (700, 800), (2000, 1000)])
def test_mcnemar(b, c):
    expected = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert mcnemar(*pairs(50, b, c, 7)) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(*pairs(0, c, b, 0)) == pytest.approx(expected, rel=1e-9)


def test_paired_difference_of_published_examples():
    """Cavo et al. 2012 as in Fagerland et al., Statistical Analysis of Contingency Tables, chapter 8: p1 - p2."""
    difference, (low, high) = paired_difference(*pairs(59, 16, 6, 80))  # ours is the second minus the first
    assert difference == pytest.approx(-0.0621, abs=5e-5)
    assert (low, high) == (pytest.approx(-0.1186, abs=5e-5), pytest.approx(-0.0046, abs=5e-5))


@pytest.mark.parametrize(
    "cells", [(36, 12, 2, 0), (14, 5, 0, 22), (1, 1, 7, 12), (20, 12, 2, 16), (43, 0, 0, 7), (9, 0, 1, 0)]
)
def test_paired_difference_by_the_formula(cells):
    """Newcombe 1998, method 10, in his notation: p1 - p2 with delta, epsilon and the corrected phi; scipy gives the limits."""
    both, first, second, neither = cells
    n, p1, p2 = sum(cells), (both + first) / sum(cells), (both + second) / sum(cells)
    (l1, u1), (l2, u2) = (stats.binomtest(k, n).proportion_ci(0.95, "wilson") for k in (both + first, both + second))
    product = both * neither - first * second
    corrected = product - n / 2 if product > n / 2 else min(product, 0)
    spread = ((both + first) * (second + neither) * (both + second) * (first + neither)) ** 0.5
    phi = corrected / spread if spread else 0
    delta = ((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2) ** 0.5
    epsilon = ((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2) ** 0.5
    found, (low, high) = paired_difference(*pairs(both, second, first, neither))
    assert (found, low, high) == pytest.approx((p1 - p2, p1 - p2 - delta, p1 - p2 + epsilon), abs=1e-12)


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
    assert 25 < sum(flips) / 200 < 39, "about half of 63 bits flip"


@pytest.mark.parametrize("n", [1, 2, 3, 8, 31])
def test_quartiles_are_those_of_numpy(n):
    values = [random.Random(n).random() for _ in range(n)]
    np = pytest.importorskip("numpy")
    assert quartiles(values) == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]).tolist())


def test_a_median_between_a_distance_and_none_is_not_known():
    inf = float("inf")
    assert quartiles([1, inf])[1] is None
    assert quartiles([1, 3, inf, inf])[1] is None
    assert quartiles([1, 2, 4, inf])[1] == 3


def test_the_mean_of_shares_of_one_group_is_its_wilson_interval():
    for correct, total in ((0, 10), (7, 10), (431, 1000)):
        mean, interval = mean_of_shares([(correct, total)])
        assert mean == correct / total
        assert interval == pytest.approx(wilson(correct, total))


def test_the_mean_of_equal_groups_is_as_sure_as_all_of_them_together():
    mean, (low, high) = mean_of_shares([(9, 10), (5, 10), (7, 10)])
    assert mean == pytest.approx(0.7)
    together = wilson(21, 30)
    assert low <= together[0] + 1e-9
    assert high >= together[1] - 1e-9
    assert mean_of_shares([]) == (0.0, (0.0, 1.0))


@pytest.mark.parametrize(
    ("sizes", "shares"),
    [((57, 3), (0.99, 0.4)), ((570, 30), (0.95, 0.5)), ((10,) * 10, (0.3, 0.9) * 5), ((1,) * 60, (0.7,) * 60)],
)
def test_the_interval_of_a_mean_of_shares_holds_the_truth(sizes, shares):
    rng, truth, held = random.Random(0), sum(shares) / len(shares), 0
    for _ in range(400):
        counts = [
            (sum(rng.random() < share for _ in range(size)), size) for size, share in zip(sizes, shares, strict=True)
        ]
        low, high = mean_of_shares(counts)[1]
        held += low <= truth <= high
    assert held / 400 >= 0.91  # 95%, less three standard errors and the effect of discrete counts


def test_roc_auc_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(0)
    for n in (2, 5, 40, 300):
        positive = [True, False] + [rng.random() < 0.3 for _ in range(n - 2)]
        scores = [round(rng.gauss(kind, 1), 1) for kind in positive]
        assert roc_auc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores))
    with pytest.raises(ValueError, match="both classes"):
        roc_auc([0.1, 0.2], [True, True])


def test_the_interval_of_roc_auc():
    for auc in (0.0, 0.1, 0.5, 0.9, 1.0):
        low, high = auc_interval(auc, 30, 570)
        assert 0 <= low <= auc <= high <= 1
        assert high - low > 0.02  # even if the classes are fully separated
        mirrored = auc_interval(1 - auc, 570, 30)
        assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))
    # The ends are where the estimate lies z standard errors away, by Hanley and McNeil's variance.
    for end in auc_interval(0.8, 40, 60):
        mean = (40 + 60) / 2 - 1
        variance = end * (1 - end) * (1 + mean * ((1 - end) / (2 - end) + end / (1 + end))) / (40 * 60)
        assert abs(0.8 - end) == pytest.approx(Z95 * variance**0.5)


def test_the_interval_of_roc_auc_holds_the_truth():
    rng, truth, held = random.Random(0), stats.norm.cdf(1 / 2**0.5), 0
    kinds = [True] * 20 + [False] * 60
    for _ in range(300):
        low, high = auc_interval(roc_auc([rng.gauss(kind, 1) for kind in kinds], kinds), 20, 60)
        held += low <= truth <= high
    assert held / 300 >= 0.91
