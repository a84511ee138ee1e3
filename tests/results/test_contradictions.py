import math

import pytest
from scipy.stats import binom

from robustcls.evaluation.measures.minimum.record import MinimumNorm
from robustcls.evaluation.measures.other_curves.record import NormCurve
from robustcls.results.certified import Certified, CertifiedSample
from robustcls.results.contradictions import (
    CHANCE,
    CHECK,
    NO_ANSWER,
    check_of,
    contradicted,
    contradictions,
    put,
    with_check,
)
from robustcls.results.records import Accuracy, Check, CurvePoint
from tests.helpers.judged_by_hand import make_evaluation

N, ALPHA = 100, 0.001


def bounds(radii):
    """Return certificates of ten samples, all correct; the attacks below break the last two at 0.03."""
    samples = [CertifiedSample(index, index % 10, index % 10, radius) for index, radius in enumerate(radii)]
    return Certified.of("bounds", "linf", samples, [0, 0.03], algorithm="intervals")


def smoothing(radii, n=10):
    samples = [CertifiedSample(i, i % 10, i % 10, radii.get(i, 0.0), i % 10, 100) for i in range(n)]
    return Certified.of("smoothing", "linf", samples, [0], sigma=0.25, n=N, n0=10, alpha=ALPHA)  # linf: as below


def attacked(record, clean=10, robust=8, n=10):
    evaluation = make_evaluation(clean, robust, n=n)
    evaluation.certified = record
    return evaluation


def found_in(evaluation, more=None):
    return [(one.index, one.distance) for one in contradictions(evaluation, more).values()]


def test_an_example_inside_a_certificate_contradicts_it_and_one_outside_does_not():
    assert found_in(attacked(bounds([0.02] * 10))) == []
    assert found_in(attacked(bounds([0.02] * 9 + [0.05]))) == [(9, 0.03)]
    assert found_in(attacked(bounds([0.05] * 8 + [0.0, 0.0]))) == [], "no attack broke a certified sample"
    for radius in (0.03, math.nextafter(0.03, 0), 0.03 - 9e-7):
        assert len(found_in(attacked(bounds([radius] * 10)))) == 2, "the examples lie in the ball of this radius"
    assert found_in(attacked(bounds([0.03 - 2e-6] * 10))) == []


def test_every_distance_in_the_norm_of_the_certificates_counts():
    evaluation = attacked(bounds([0.02] * 10))
    evaluation.samples[0].nearest = {"fmn": 0.019}
    evaluation.samples[1].nearest = {"fmn": None}
    evaluation.minimum = [
        MinimumNorm("linf", "fab", "", 2, [2, 3], [0.01, None], 1),
        MinimumNorm("l2", "ddn", "", 1, [4], [0.01], 0),
        MinimumNorm("linf", "fab", "", 0, [], [], 0, error="no"),
    ]
    assert found_in(evaluation, {5: 0.005, 6: 0.5}) == [(0, 0.019), (2, 0.01), (5, 0.005)]


def test_a_certified_sample_that_is_misclassified_unchanged_is_one_too():
    evaluation = attacked(bounds([0.02] * 10), clean=9)
    evaluation.minimum = [MinimumNorm("linf", "fab", "", 1, [9], [0.0], 0)]
    assert found_in(evaluation) == [(9, 0.0)]
    assert "misclassified unchanged" in check_of(evaluation, contradictions(evaluation)).message


def test_another_norm_and_samples_without_a_certificate_say_nothing():
    evaluation = attacked(bounds([0.05] * 10))
    evaluation.threat.norm = "l2"
    assert found_in(evaluation) == []
    wrong = bounds([0.0] * 10)
    assert found_in(attacked(wrong, clean=5, robust=0)) == []


def test_a_curve_that_leaves_fewer_than_are_certified_contradicts_by_its_counts():
    evaluation = attacked(bounds([0.01] * 4 + [0.02] * 4 + [0.0, 0.0]))

    def curve(*counts):
        return [
            CurvePoint(eps, f"{eps:g}", Accuracy.of(count, 10)) for eps, count in zip((0.01, 0.02), counts, strict=True)
        ]

    evaluation.curve = curve(9, 8)
    assert check_of(evaluation, {}).status == "pass"
    evaluation.curve = curve(8, 1)
    check = check_of(evaluation, contradictions(evaluation))
    assert (check.status, check.measured) == ("fail", 3.0)
    assert "at 0.02 the attacks leave 1 samples, and 4 are certified" in check.message
    known = contradictions(evaluation, {4: 0.015, 0: 0.009})
    assert check_of(evaluation, known).measured == 4.0, "two known samples, one certified at 0.02, and two more"
    evaluation.curve = None
    evaluation.other_curves = [
        NormCurve("linf", ["pgd"], "", 10, curve(8, 3)),
        NormCurve("l2", [], "", 10, curve(0, 0)),
    ]
    assert check_of(evaluation, {}).measured == 1.0


def test_of_bounds_one_violation_fails():
    check = check_of(evaluation := attacked(bounds([0.05] * 10)), contradictions(evaluation))
    assert (check.id, check.status, check.measured, check.threshold) == (CHECK, "fail", 2.0, 0.0)
    assert "2 of 10 certified samples" in check.message
    assert "sample 8, broken at 0.03 and certified to 0.05" in check.message


def test_without_attacks_or_certificates_there_is_no_check():
    evaluation = attacked(bounds([0.05] * 10))
    evaluation.attacks = []
    assert check_of(evaluation, {}) is None
    assert check_of(make_evaluation(10, 8, n=10), {}) is None
    assert with_check(make_evaluation(10, 8, n=10)) == make_evaluation(10, 8, n=10)


def judged(answers, n=10, robust=8):
    evaluation = attacked(smoothing(dict.fromkeys(range(n), 0.05), n), clean=n, robust=robust, n=n)
    return check_of(evaluation, contradictions(evaluation), answers)


def test_few_draws_that_were_wrong_by_chance_are_no_violation():
    check = judged({8: 8, 9: 9}, n=10)
    assert (check.status, check.measured) == ("warn", 0.0), "two of ten samples: robust accuracy is 20 points too low"
    assert "wrong for 0 of them and right for 2" in check.message
    assert "20.0 points too low" in check.message
    assert judged({8: 8, 9: NO_ANSWER}).status == "pass", "only one of them is lost by chance"
    abstained = judged({8: NO_ANSWER, 9: NO_ANSWER})
    assert "too close to call for 2" in abstained.message
    assert abstained.status == "pass"


def test_what_was_not_asked_again_warns():
    check = judged({8: 8})
    assert (check.status, check.measured) == ("warn", None)
    assert "the vote was not repeated for 1: their examples are not available" in check.message
    assert judged({}).status == "warn"


@pytest.mark.parametrize("n", [10, 1000])
def test_more_wrong_votes_than_chance_explains_fail(n):
    for wrong in range(1, 9):
        robust = n - wrong
        answers = {i: (i + 1) % 10 for i in range(robust, n)}
        check = judged(answers, n, robust)
        probability = binom.sf(wrong - 1, n + 2 * wrong, ALPHA)  # of this many or more
        assert check.measured == wrong
        assert check.status == ("fail" if probability <= CHANCE else "warn"), (wrong, probability)
        assert f"of {n} certificates {ALPHA * n:.2g} are expected to be false" in check.message


def test_a_loaded_evaluation_is_held_to_its_records():
    """This does not depend on the check in the file, which may be edited or written by another version."""
    passed = Check(CHECK, "pass", 0.0, 0.0, "fine")
    evaluation = attacked(bounds([0.05] * 10))
    put(evaluation, passed)
    held = with_check(evaluation)
    assert contradicted(held)
    assert not contradicted(evaluation), "with_check leaves the given evaluation unchanged"
    assert [one.id for one in held.checks] == ["zero_gradients", CHECK]
    failed = attacked(bounds([0.02] * 10))
    put(failed, Check(CHECK, "fail", 1.0, 0.0, "an example that no record has"))
    assert contradicted(with_check(failed))
    smooth = attacked(smoothing({9: 0.05}))
    assert [one.status for one in with_check(smooth).checks if one.id == CHECK] == ["warn"]
    put(smooth, Check(CHECK, "pass", 0.0, 0.0, "one that a vote refuted", 1))
    assert with_check(smooth) is smooth


def test_records_that_show_more_than_the_stored_check_are_judged_anew():
    """This may happen after an edit of counts and radii that keeps the file consistent: the stored check covers fewer samples
    than the records."""
    smooth = attacked(smoothing(dict.fromkeys(range(10), 0.05)))
    for status, measured in (("pass", 0.0), ("warn", 0.0), ("fail", 9.0)):
        put(smooth, Check(CHECK, status, measured, 1.0, "the vote is wrong for 0", 1))
        [check] = [one for one in with_check(smooth).checks if one.id == CHECK]
        assert check.status == ("fail" if status == "fail" else "warn"), "a failure remains a failure"
        assert "2 of 10 certified samples" in check.message
        assert check.message.endswith("the check in the file accounts for 1 of these")
    put(smooth, Check(CHECK, "pass", 0.0, 1.0, "the vote is wrong for 0", 3))
    assert with_check(smooth) is smooth, "the stored check counts examples that no record has"
    put(smooth, Check(CHECK, "pass", 0.0, 1.0, "no attack broke one of the 10 certified samples inside its radius", 0))
    assert with_check(smooth).checks[-1].status == "warn"


def test_a_sample_that_is_broken_is_not_counted_again_where_the_curve_breaks_it():
    """Its record has the example at 0.03, and the curve may have found another at 0.01."""
    evaluation = attacked(bounds([0.0] * 9 + [0.05]))
    evaluation.curve = [CurvePoint(0.01, "0.01", Accuracy.of(0, 10))]
    assert check_of(evaluation, contradictions(evaluation)).measured == 1.0
