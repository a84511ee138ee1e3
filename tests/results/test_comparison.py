"""Classes of an evaluation, and pairs of evaluations."""

import dataclasses

import pytest

from robustcls.results.comparison import (
    ClassCounts,
    by_data,
    certified_otherwise,
    count_classes,
    data_class,
    find_mismatch,
    outdated_suites,
    pair,
    pair_certified,
    worst_class,
)
from robustcls.results.records import Accuracy, Attack, ClassMap, Evaluation, Rejection, Sample
from robustcls.results.statistics import paired_difference
from tests.helpers.certificates import N, bounded_evaluation, bounds, labels_of, smoothed_evaluation, smoothing
from tests.helpers.sample_records import tiny_evaluation


def evaluation(*kinds: tuple[int, int, int]) -> Evaluation:
    """Return an evaluation. kinds: label, clean and adversarial prediction of each sample."""
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
        ([(0, 10, 9, 4), (1, 20, 9, 8), (2, 20, 9, 8)], 1),  # if equal: most samples, then first label
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


def mapped(outputs, kinds, names):
    one = evaluation(*kinds)
    data = dataclasses.replace(one.data, class_map=ClassMap(["a", "b"], outputs, "by name"))
    return dataclasses.replace(one, data=data, model=dataclasses.replace(one.model, classes=names))


def test_models_that_number_the_classes_in_another_way_are_paired_by_the_datas_own():
    first = mapped([1, 0], [(1, 1, 1), (0, 0, 1), (0, 1, 1)], ["b", "a"])
    second = mapped([5, 3], [(5, 5, 3), (3, 3, 3), (3, 7, None)], list("stubva"))
    assert find_mismatch([first, second]) == ""
    assert [one.label for one in by_data(second)] == [0, 1, 1]
    assert [one.adversarial for one in by_data(second)] == [1, 1, None]  # NaN: no class
    assert count_classes(by_data(first)) == [ClassCounts(0, 1, 1, 1), ClassCounts(1, 2, 1, 0)]
    assert [data_class(second, label) for label in (0, 1)] == ["a", "b"]
    other = mapped([3, 5], [(5, 5, 3), (3, 3, 3), (3, 7, 7)], list("stubva"))
    assert find_mismatch([first, other]) == "the sample indices or labels differ"


def test_samples_drawn_by_other_rules_are_named():
    first, second = (evaluation((0, 0, 0)) for _ in range(2))
    first.data = dataclasses.replace(first.data, sha256="a", sampling="in turn")
    second.data = dataclasses.replace(second.data, sha256="b", sampling="by share")
    assert "drawn by different rules, 'in turn' and 'by share': evaluate both on all samples" in find_mismatch(
        [first, second]
    )
    second.data.sampling = "in turn"
    assert find_mismatch([first, second]).startswith("the data differ")


def test_one_model_under_two_maps_of_its_classes_is_not_compared():
    kinds = [(1, 1, 1), (0, 0, 1)]
    first, same = (mapped([1, 0], kinds, ["b", "a"]) for _ in range(2))
    other = mapped([0, 1], [(0, 1, 1), (1, 0, 0)], ["a", "b"])
    assert find_mismatch([first, same]) == ""
    assert "two maps of classes ('a' is output 1 and 0)" in find_mismatch([first, other])
    plain = dataclasses.replace(other, data=dataclasses.replace(other.data, class_map=None))
    assert "two maps of classes" in find_mismatch([first, plain])
    renamed = dataclasses.replace(other, model=dataclasses.replace(other.model, name="another", sha256="f"))
    assert find_mismatch([first, renamed]) == ""


def test_what_a_detector_refused_is_not_compared_with_what_none_did():
    plain, one, two = (evaluation((0, 0, 0)) for _ in range(3))
    one.rejection = Rejection("lab:score", 0.05, 1.0, 100, 5, Accuracy.of(1, 1), 0, 0, 0)
    two.rejection = dataclasses.replace(one.rejection, fpr=0.1)
    assert find_mismatch([plain, one]).startswith("the detectors differ (none and lab:score at fpr 0.05)")
    assert "lab:score at fpr 0.05 and lab:score at fpr 0.1" in find_mismatch([one, two])
    two.rejection = dataclasses.replace(one.rejection, threshold=2.0)
    assert find_mismatch([one, two]) == ""


def ran(suites: dict[str, int], kind: str, *attacks: tuple[str, dict]) -> Evaluation:
    made = [Attack(name, options, 0, 0, 0.0, 0.0, 0, 0) for name, options in attacks]
    robust = Accuracy.of(0, 1, f"upper bound: {kind}")
    return dataclasses.replace(evaluation((0, 0, 0)), robust=robust, attacks=made, suites=suites)


def test_an_evaluation_without_versions_is_of_version_1():
    assert ran({}, "fast").suite_versions == {"fast": 1}
    assert ran({}, "fast, pgd(steps=5); failed: pgd").suite_versions == {"fast": 1}
    assert ran({}, "pgd").suite_versions == {}
    assert ran({"fast": 2}, "fast").suite_versions == {"fast": 2}


def test_two_versions_of_a_suite_are_not_compared():
    older, newer = ran({}, "fast", ("apgd_ce", {})), ran({"fast": 2}, "fast", ("apgd_pm", {}))
    said = "the suite fast is version 1 and 2: evaluate again, or take the older one, `suite=fast(version=1)`"
    assert find_mismatch([older, newer]) == said
    assert find_mismatch([newer, newer]) == find_mismatch([older, older]) == ""
    assert outdated_suites(newer) == ""
    assert outdated_suites(older) == "the suite fast of this evaluation is version 1, today's is 2"


def test_options_that_an_older_version_did_not_know_have_their_defaults():
    given = {"queries": 5000, "p_init": 0.8, "early_stop": True}
    older = ran({}, "standard", ("square", given))
    newer = ran({"standard": 1}, "standard", ("square", given | {"look": 0, "within": 1.0}))
    assert find_mismatch([older, newer]) == ""
    assert (
        find_mismatch([older, ran({}, "square", ("square", given | {"look": 50}))])
        == "the attacks or their options differ"
    )


def smoothed_again(counts, **more):
    """Return the smoothed evaluation with certificates from these counts, in reverse order in the record."""
    one = smoothed_evaluation()
    one.certified = smoothing(counts, labels_of(one), **more)
    one.certified.samples.reverse()
    one.check()
    return one


def test_certified_accuracy_is_paired_by_sample():
    """At 0.25, the first evaluation certifies samples 0 to 79, the second 10 to 94, because 950 of 1,000 draws suffice and
    600 do not."""
    first, second = smoothed_evaluation(), smoothed_again([600] * 10 + [950] * 85 + [600] * 5)
    (found,) = pair_certified(first, second)
    assert found.part == "certified 0.25"
    assert (found.only_first, found.only_second) == (10, 15)
    difference, ends = paired_difference([True] * 80 + [False] * 20, [False] * 10 + [True] * 85 + [False] * 5)
    assert (found.difference, (found.low, found.high)) == (difference, ends)
    assert found.difference == pytest.approx(0.05)
    assert certified_otherwise(first, second) == ""


def test_the_noise_may_differ_and_radii_beyond_what_the_draws_reach_are_left_out():
    first, second = smoothed_evaluation(), smoothed_again([N] * 100, sigma=0.1)  # certifies at most 0.246
    assert certified_otherwise(first, second) == ""
    assert pair_certified(first, second) == []
    wide = smoothed_again([N] * 100, sigma=0.5)
    wide.certified.curve.append(dataclasses.replace(wide.certified.curve[-1], radius=1.0))
    assert [one.part for one in pair_certified(first, wide)] == ["certified 0.25"]


def test_bounds_are_compared_where_both_tried():
    first, second = bounded_evaluation(), bounded_evaluation()
    assert [one.part for one in pair_certified(first, second)] == ["certified 0.01", "certified 0.02"]
    second.certified.curve.pop(1)
    assert [one.part for one in pair_certified(first, second)] == ["certified 0.02"]
    second.certified = bounds([0.0] * 100, labels_of(second), algorithm="intervals")
    assert certified_otherwise(first, second) == "the algorithms differ ( and intervals)"
    assert pair_certified(first, second) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 2 * N}, "the numbers of draws differ (1000 and 2000)"),
        ({"n0": 10}, "the numbers of draws that choose the class differ (100 and 10)"),
        ({"alpha": 0.01}, "the alphas differ (0.001 and 0.01)"),
        ({"method": "bounds"}, "the methods differ (smoothing and bounds)"),
        ({"norm": "linf"}, "the norms differ (l2 and linf)"),
    ],
)
def test_certificates_made_otherwise_are_not_compared(change, said):
    first, second = smoothed_evaluation(), smoothed_evaluation()
    second.certified = dataclasses.replace(second.certified, **change)
    assert certified_otherwise(first, second) == said
    assert pair_certified(first, second) == []


def test_certificates_of_one_alone_are_not_compared():
    first, second = smoothed_evaluation(), smoothed_evaluation()
    second.certified = None
    assert certified_otherwise(first, second) == certified_otherwise(second, first) == "one of them has no certificates"
    assert pair_certified(first, second) == []
    first.certified = None
    assert certified_otherwise(first, second) == ""
