import pytest

from robustcls.results.bracket import attacked_of, bracket, covers, largest_radius, sigma_of, stated_radius, why_apart
from robustcls.results.records import Accuracy, CurvePoint
from tests.helpers.bracketed import ATTACKED, COUNTS, DRAWS, bounded, radius_of, smoothed_bracket


def certified_by_hand(radius: float) -> int:
    """Return how many of the first 80 samples, whose candidate is right, the formula of the paper certifies."""
    return sum(radius_of(count) > 0 and radius_of(count) >= radius for count in COUNTS[:80])


def test_the_evaluations_of_these_tests_are_consistent():
    for evaluation in (smoothed_bracket(), bounded()):
        evaluation.check()
        assert why_apart(evaluation) == ""


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.125, 0.2, 0.25, 0.3, 0.4999, 0.5, 0.6, 0.7, 1.0, 2.0])
def test_both_sides_are_counted_at_any_radius(radius):
    found = bracket(smoothed_bracket(), radius)
    assert found.lower.correct == certified_by_hand(radius)
    inside = [eps for eps in ATTACKED if eps <= radius]
    assert found.upper.robust.correct == ATTACKED[max(inside)], "attacks at smaller radii count, too"
    assert found.gap == pytest.approx((found.upper.robust.correct - found.lower.correct) / 100)


def test_the_radius_of_the_threat_is_meant_unless_another_is():
    found = bracket(smoothed_bracket())
    assert (found.radius, found.lower.correct, found.upper.robust.correct) == (0.25, 55, 60)
    assert found.upper.path == "robust"
    paths = [point.path for point in attacked_of(smoothed_bracket())]
    assert paths == ["curve.0.robust", "curve.1.robust", "robust", "curve.3.robust", "curve.4.robust"]


def test_certificates_of_a_copy_in_low_precision_are_about_another_model():
    evaluation = smoothed_bracket()
    evaluation.certified.precision = "bf16"
    assert "of the copy in bf16" in why_apart(evaluation)
    assert bracket(evaluation) is None


def test_certified_samples_that_count_as_broken_are_counted():
    evaluation = smoothed_bracket()
    expected = bracket(evaluation).disputed
    sample = next(
        one
        for one, proven in zip(evaluation.samples, evaluation.certified.samples, strict=True)
        if one.index == proven.index and proven.holds(0.25) and one.adversarial == one.label
    )
    sample.adversarial = sample.label + 1
    assert bracket(evaluation).disputed == expected + 1
    assert bracket(evaluation, 0.125).disputed == 0, "this is counted at the radius of the attacks only"


def test_a_curve_of_fewer_samples_is_no_upper_bound_of_these():
    evaluation = smoothed_bracket()
    evaluation.curve = [CurvePoint(eps, f"{eps:g}", Accuracy.of(count // 2, 50)) for eps, count in ATTACKED.items()]
    assert [(point.eps, point.path) for point in attacked_of(evaluation)] == [(0.0, "clean"), (0.25, "robust")]


def test_smoothing_says_something_of_every_radius_and_bounds_up_to_the_largest_tried():
    smoothed, plain = smoothed_bracket(), bounded()
    assert largest_radius(smoothed.certified) == pytest.approx(radius_of(DRAWS))
    assert covers(smoothed.certified, 100)
    assert largest_radius(plain.certified) == 8 / 255
    assert [bracket(plain, levels / 255).lower.correct for levels in (0, 1, 2, 3, 4, 8)] == [80, 70, 70, 50, 50, 20]
    assert bracket(plain, 9 / 255) is None


def test_the_stated_radius_is_the_threats_else_the_largest_below():
    assert stated_radius(smoothed_bracket()) == 0.25
    assert stated_radius(bounded(eps=16)) == 8 / 255
    assert bracket(bounded(eps=16)) is None
    assert stated_radius(bounded(eps=1)) == 1 / 255
    alone = bounded()
    alone.threat.eps, alone.attacks = 0.0, []
    assert stated_radius(alone) == 2 / 255


def other_samples(evaluation):
    evaluation.samples[3].index = 1000


def other_labels(evaluation):
    evaluation.samples[3].label += 1


APART = {
    "the network itself": (lambda e: setattr(e.model, "name", "noise/ckpt.pt"), "the attacks are on noise/ckpt.pt"),
    "another sigma": (lambda e: setattr(e.model, "name", "smoothed(a.pt, sigma=0.5)"), "of sigma 0.25"),
    "other samples": (other_samples, "the attacks have other samples"),
    "other labels": (other_labels, "the attacks have other samples"),
    "another norm": (lambda e: setattr(e.threat, "norm", "linf"), "the attacks are in linf and the certificates in l2"),
    "no attack": (lambda e: setattr(e, "attacks", []), "no attack was run on it"),
    "failed attacks": (lambda e: [setattr(one, "error", "out of memory") for one in e.attacks], "every attack failed"),
    "no certificate": (lambda e: setattr(e, "certified", None), "nothing was certified"),
}  # fmt: skip


@pytest.mark.parametrize("case", APART)
def test_what_is_about_different_things_makes_no_bracket(case):
    change, said = APART[case]
    evaluation = smoothed_bracket()
    change(evaluation)
    assert said in why_apart(evaluation)
    assert bracket(evaluation) is None


def test_bounds_of_a_network_are_not_bounds_of_its_smoothed_vote():
    assert "the bounds are on a network itself" in why_apart(bounded(name="smoothed(small.pt, sigma=0.25)"))


@pytest.mark.parametrize(
    ("name", "sigma"),
    [
        ("smoothed(ckpt.pt, sigma=0.25)", 0.25),
        ("smoothed(ckpt.pt, sigma=0.25, draws=4)", 0.25),
        ("smoothed(ckpt.pt, draws=4, sigma=0.5)", 0.5),
        ("smoothed(smoothed(a.pt, sigma=1), sigma=0.25)", 0.25),
        ("smoothed(ensemble(a.pt, b.pt), sigma=1e-1)", 0.1),
        ("ckpt.pt", None),
        ("averaged(smoothed(a.pt, sigma=0.25), draws=3)", None),
        ("smoothed(smoothed(a.pt, sigma=0.25))", None),
        ("smoothed(ckpt.pt, sigma=a-e)", None),
        ("notsmoothed(ckpt.pt, sigma=0.25)", None),
        ("", None),
    ],
)
def test_the_noise_of_a_model_stands_in_its_name(name, sigma):
    assert sigma_of(name) == sigma
