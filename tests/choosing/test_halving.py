"""Successive halving on given accuracies, against counts and intervals worked out by hand."""

import itertools
import random

import pytest

from robustcls.choosing.halving import Difference, pareto, ranked, rung_sizes, seed_noise, share_out, survivors
from robustcls.results.statistics import mcnemar


def right(correct, total=100):
    return [place < correct for place in range(total)]


@pytest.mark.parametrize(
    ("candidates", "sizes"),
    [(2, [2]), (3, [3, 2]), (4, [4, 2]), (5, [5, 3, 2]), (6, [6, 3, 2]), (8, [8, 4, 2]), (9, [9, 5, 3, 2])],
)
def test_rungs(candidates, sizes):
    assert rung_sizes(candidates) == sizes
    assert len(sizes) == (candidates - 1).bit_length()  # log2 of n, rounded up


@pytest.mark.parametrize(("candidates", "extra"), list(itertools.product((2, 3, 6, 8), (0, 2, 4))))
def test_the_budget_is_used_up_and_every_rung_costs_the_same(candidates, extra):
    budget, sizes = share_out(720, candidates, extra), rung_sizes(candidates)
    rungs = [share * size for share, size in zip(budget.rungs, sizes, strict=True)]
    assert rungs == pytest.approx([rungs[0]] * len(rungs))
    assert sum(rungs) + extra * budget.extra == pytest.approx(720)
    assert budget.extra == budget.rungs[-1]


def test_six_candidates_in_twelve_minutes_with_two_more_seeds():
    budget = share_out(720, 6, 2)
    assert budget.rungs == pytest.approx((30, 60, 90))


def test_the_lower_bound_ranks():
    """By Wilson's formula, the lower bound of 90 of 100 is 82.6%, less than that of 880 of 1,000, which is 85.8%."""
    robust = {"few": right(90), "many": right(880, 1000), "none": right(0)}
    assert ranked(robust, robust) == ["many", "few", "none"]
    same = {"a": right(50), "b": right(50), "c": right(50)}
    assert ranked(same, {"a": right(60), "b": right(70), "c": right(60)}) == ["b", "a", "c"]


def test_halving_keeps_the_best_of_accuracies_that_do_not_change():
    numbers = random.Random(0)
    for count in range(2, 12):
        accuracies = numbers.sample(range(100), count)
        left = {str(place): right(accuracy) for place, accuracy in enumerate(accuracies)}
        for size in rung_sizes(count):
            assert len(left) == size
            kept = survivors(ranked(left, left))
            assert min(sum(left[name]) for name in kept) > max(
                sum(hits) for name, hits in left.items() if name not in kept
            )
            left = {name: left[name] for name in kept}
        assert list(left) == [str(accuracies.index(max(accuracies)))]


def test_a_difference_is_claimed_when_its_interval_leaves_out_0_and_seeds_make_less():
    # Newcombe's method 10 by hand. Both are right on 40 images, only the first on 20, only the second on 5, none on 35.
    # Wilson's intervals are 0.5020 to 0.6906 and 0.3561 to 0.5476; phi is
    # (40 * 35 - 20 * 5 - 50) / sqrt(60 * 40 * 45 * 55) = 0.5129.
    one = [True] * 60 + [False] * 40
    other = [True] * 40 + [False] * 20 + [True] * 5 + [False] * 35
    found = Difference.of(one, other)
    assert found.value == pytest.approx(0.15)
    assert found.ci95 == pytest.approx((0.0535, 0.2411), abs=2e-4)
    assert mcnemar(one, other) < 0.05
    assert found.claimable()
    assert found.claimable(0.149)
    assert not found.claimable(0.151)
    assert Difference.of(other, one).value == pytest.approx(-0.15)
    assert Difference.of(other, one).claimable()
    assert not Difference.of(right(52), right(50)).claimable(0.02)
    assert not Difference.of(one, one).claimable()


def test_seed_noise_is_the_range():
    assert seed_noise([0.4, 0.43, 0.41]) == pytest.approx(0.03)
    assert seed_noise([0.4]) == 0


def test_pareto_front():
    figures = {"small": (40, -1), "good": (50, -2), "beaten": (45, -2), "large": (51, -9), "twin": (50, -2)}
    assert pareto(figures) == {"small", "good", "large", "twin"}
    assert pareto({"alone": (0,)}) == {"alone"}
