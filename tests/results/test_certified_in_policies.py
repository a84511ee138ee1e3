"""`min_certified`: a threshold for certified accuracy, at the policy's norm and radius."""

import pytest
from scipy.stats import norm

from robustcls.core.errors import InputError
from robustcls.results.bracket import tried_at
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Accuracy, Rejection
from robustcls.results.statistics import wilson
from tests.helpers.certificates import ALPHA, SIGMA, N, bounded_evaluation, smoothed_evaluation


def criterion(evaluation, policy, name="min_certified"):
    (found,) = [one for one in judge(evaluation, policy).criteria if one.name == name]
    return found


def test_the_interval_is_wilsons_and_its_edge_passes():
    low, high = wilson(80, 100)
    one = smoothed_evaluation()
    for threshold, status in (
        (low, "PASS"),
        (low + 1e-9, "INCONCLUSIVE"),
        (high, "INCONCLUSIVE"),
        (high + 1e-9, "FAIL"),
    ):
        assert criterion(one, Policy(min_certified=threshold)).status == status
    found = criterion(one, Policy(min_certified=0.5))
    assert found.asked == "certified accuracy at least 50.0%"
    assert found.measured == f"80.0% [{low:.1%}, {high:.1%}] within l2 0.25"
    assert found.reason == (
        f"certified accuracy within l2 0.25 80.0% [{low:.1%}, {high:.1%}] lies at or above the threshold 50.0%, by smoothing "
        "with sigma 0.25, 1,000 draws, alpha 0.001"
    )
    one.certified.precision = "bf16"
    assert criterion(one, Policy(min_certified=0.5)).reason.endswith("alpha 0.001, of the copy in bf16")


@pytest.mark.parametrize("attacked", [True, False])
@pytest.mark.parametrize(
    ("eps", "asked", "status", "said"),
    [
        (0.1, 0.7, "PASS", "within l2 0.1 80.0%"),
        (0.5, 0.45, "PASS", "within l2 0.5 60.0%"),
        (0.5, 0.75, "FAIL", "within l2 0.5 60.0%"),
        (0.5, 0.6, "INCONCLUSIVE", "around the threshold"),
        (
            0.7,
            0.0,
            "INCONCLUSIVE",
            "within l2 0.7 was not measured: smoothing with sigma 0.25, 1,000 draws",
        ),
        (0.7, 0.9, "INCONCLUSIVE", "can say nothing beyond 0.6158: take more draws"),
        (0.0, 0.0, "INCONCLUSIVE", "nothing names a radius above 0: state norm and eps in the policy"),
    ],
)
def test_smoothing_is_judged_at_the_policys_radius_whatever_was_attacked(eps, asked, status, said, attacked):
    found = judge(smoothed_evaluation(attacked), Policy(min_certified=asked, norm="l2", eps=eps))
    assert found.status == status, found.reasons
    assert said in found.reasons[0]
    assert [one.name for one in found.criteria] == ["min_certified", "diagnostics"]


@pytest.mark.parametrize(
    ("eps", "asked", "status", "said"),
    [
        (0.02, 0.2, "PASS", "within linf 0.02 30.0%"),
        (0.02, 0.6, "FAIL", "lies below the threshold 60.0%, by bounds"),
        (0.015, 0.2, "PASS", "lies at or above the threshold 20.0%, proven at 0.02, by bounds"),
        (0.015, 0.3, "INCONCLUSIVE", "around the threshold 30.0%, proven at 0.02, by bounds"),
        (0.015, 0.6, "INCONCLUSIVE", "proven at 0.02: at 0.015 itself, which was not tried, it may be higher"),
        (0.01, 0.65, "FAIL", "within linf 0.01 50.0%"),
        (0.001, 0.7, "INCONCLUSIVE", "proven at 0.01: at 0.001 itself"),
        (
            0.03,
            0.0,
            "INCONCLUSIVE",
            "within linf 0.03 was not measured: bounds can say nothing beyond 0.02: certify at",
        ),
        (None, 0.0, "INCONCLUSIVE", "within linf 0.03 was not measured"),  # the radius of the attacks
    ],
)
def test_bounds_decide_only_at_the_radii_that_were_tried(eps, asked, status, said):
    threat = {} if eps is None else {"norm": "linf", "eps": eps}
    found = judge(bounded_evaluation(), Policy(min_certified=asked, **threat))
    assert found.status == status, found.reasons
    assert said in found.reasons[0]
    if "proven at" in said:
        assert ", proven at" in found.criteria[0].measured, "the gate shows the radius, too"


@pytest.mark.parametrize("asked", [0.0, 0.5, 1.0])
def test_another_norm_or_no_certificates_never_pass(asked):
    l2 = Policy(min_certified=asked, norm="l2", eps=0.02)
    found = criterion(bounded_evaluation(), l2)
    assert (found.status, found.measured) == ("INCONCLUSIVE", "")
    assert found.reason == (
        "certified accuracy was not measured: the certificates are in linf, and the threat is l2 0.02"
    )
    bare = bounded_evaluation()
    bare.certified = None
    assert criterion(bare, l2).reason == "certified accuracy was not measured: the evaluation has no certificates"
    beside = bounded_evaluation()
    beside.rejection = Rejection("lab:score", 0.05, 1.0, 100, 5, Accuracy.of(95, 100), 2, 1, 0)
    for one, stated in ((beside, None), (bounded_evaluation(), "lab:score")):
        policy = Policy(min_certified=asked, norm="linf", eps=0.02, detector=stated)
        found = criterion(one, policy)
        assert found.status == "INCONCLUSIVE"
        assert found.reason.endswith("of the classifier without a detector")
    never = smoothed_evaluation(attacked=False)
    never.certified.curve = never.certified.curve[:1]
    found = criterion(never, Policy(min_certified=asked))
    assert (found.status, "not measured" in found.reason) == ("INCONCLUSIVE", False)
    assert "was not judged: nothing names a radius" in found.reason


@pytest.mark.parametrize(("asked", "status"), [(0.6, "PASS"), (0.8, "INCONCLUSIVE"), (0.95, "FAIL")])
def test_without_attacks_it_is_the_first_radius_of_the_curve(asked, status):
    """80 of 100 samples are certified at 0.25, which is also the radius that a report shows."""
    found = criterion(smoothed_evaluation(attacked=False), Policy(min_certified=asked))
    assert found.status == status
    assert "within l2 0.25 80.0%" in found.reason
    assert "the first radius of the file" in found.reason


def test_certificates_of_a_vote_say_nothing_of_the_network_itself():
    one = smoothed_evaluation()
    for name in ("run/ckpt.pt", "smoothed(run/ckpt.pt, sigma=0.5)"):
        one.model.name = name
        found = criterion(one, Policy(min_certified=0.0))
        assert found.status == "INCONCLUSIVE"
        assert found.reason.endswith(
            f"the attacks are on {name}, and the certificates are for the vote under noise of sigma 0.25"
        )


def test_certificates_do_not_stand_in_for_attacks():
    """They replace neither missing attacks nor attacks at another radius than the policy's."""
    both = Policy(min_certified=0.5, min_robust=0.5, norm="l2", eps=0.25)
    assert judge(smoothed_evaluation(), both).status == "PASS"
    found = judge(smoothed_evaluation(attacked=False), both)
    assert {one.name: one.status for one in found.criteria} == {
        "threat": "INCONCLUSIVE", "min_robust": "INCONCLUSIVE", "min_certified": "PASS", "diagnostics": "PASS",
    }  # fmt: skip
    nearer = Policy(min_certified=0.5, min_robust=0.5, norm="l2", eps=0.1)
    found = judge(smoothed_evaluation(), nearer)
    assert found.status == "INCONCLUSIVE"
    assert criterion(smoothed_evaluation(), nearer).status == "PASS"


def test_what_limits_the_attacker_does_not_limit_the_proof():
    policy = Policy(min_certified=0.5, norm="l2", eps=0.25, eight_bit=True)
    assert judge(smoothed_evaluation(), policy).status == "PASS"


@pytest.mark.parametrize("value", [-0.1, 30, float("nan")])
def test_the_threshold_must_be_a_share(value):
    with pytest.raises(InputError, match="min_certified .* is not a share"):
        Policy(min_certified=value)


def test_the_largest_certifiable_radius_is_that_of_the_paper():
    """It is sigma Phi^-1(alpha^(1/n)), reached if all draws agree."""
    found = smoothed_evaluation().certified
    reach = SIGMA * norm.ppf(ALPHA ** (1 / N))
    assert tried_at(found, 0.999999 * reach) == 0.999999 * reach
    assert tried_at(found, 1.000001 * reach) is None


def test_a_failed_check_is_inconclusive():
    one = smoothed_evaluation()
    one.checks[0].status = "fail"
    assert judge(one, Policy(min_certified=0.5)).status == "INCONCLUSIVE"
