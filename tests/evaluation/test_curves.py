import pytest
import torch

from robustcls.core.errors import InputError
from robustcls.core.subset import spaced
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.curves import AutoGrid, auto_grid, choose_grid, parse_grid, reach
from robustcls.evaluation.measures.other_curves.measure import measure as measure_other_curves
from tests.helpers.eval_models import Masked, evaluated, make_batch, make_net

ATTACKS = ["pgd(steps=3)", "apgd_t(steps=5)"]
GRID = [0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.3]


def curve_at(eps, grid=GRID, attacks=ATTACKS, norm="linf", **options):
    x, y = make_batch()
    options = {"precision": "fp32", "batch_size": 16, "eps_grid": grid} | options
    return evaluated(make_net(), x, y, ThreatModel(norm, eps), attacks, **options)


@pytest.mark.parametrize("eps", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_curve_never_rises_and_meets_the_evaluation(eps, norm):
    scale = 8 if norm == "l2" else 1
    found = curve_at(eps * scale, [radius * scale for radius in GRID], norm=norm).evaluation
    radii = [point.eps for point in found.curve]
    assert radii == sorted({*(radius * scale for radius in GRID), eps * scale})
    shares = [point.robust.accuracy for point in found.curve]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == found.clean.accuracy
    assert shares[-1] < 0.1
    assert found.curve[radii.index(eps * scale)].robust.correct == found.robust.correct
    assert not any(point.error for point in found.curve)


def test_each_point_is_what_an_evaluation_at_that_radius_finds():
    found = curve_at(0.02).evaluation
    for point in found.curve[1:]:
        alone = curve_at(point.eps, []).evaluation
        assert alone.curve is None
        assert point.robust.correct == pytest.approx(alone.robust.correct, abs=2)  # random starts differ


def test_only_samples_whose_fate_is_open_are_attacked():
    seen = []

    def progress(batches, label, total, standing):
        seen.append((label, total))
        return batches

    found = curve_at(0.02, progress=progress, attacks=["pgd(steps=3)"])
    broken = found.evaluation.attacks[0].broken
    stood = found.evaluation.robust.correct
    met = dict(seen)
    assert 0 < met["pgd at 0.005"] == broken < met["pgd"]
    assert met["pgd at 0.04"] == stood
    assert met["pgd at 0.08"] <= stood


def test_an_attack_that_breaks_off_is_named_at_its_radius():
    found = curve_at(0.02, [0.01], attacks=["tests.helpers.eval_models:raises", "fgsm"]).evaluation
    assert len(found.curve) == 2, "the given radius, and that of the threat model"
    for point in found.curve:
        assert point.error.startswith("tests.helpers.eval_models:raises: RuntimeError")


def test_the_grid_is_read_like_eps():
    assert parse_grid("0,2/255, 4/255,2/255") == [0, 2 / 255, 4 / 255]
    for text in ("", "1/0", "0,-1", "0;1"):
        with pytest.raises(InputError, match="is not a radius"):
            parse_grid(text)


def test_random_state_and_images_are_left_alone():
    x, _ = make_batch()
    state = torch.get_rng_state()
    found = curve_at(0.02)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found.x, x)
    assert torch.equal(found.examples.x_adv, curve_at(0.02, []).examples.x_adv), "the curve uses its own random numbers"


def test_only_samples_that_stand_are_brought_into_the_next_ball(monkeypatch):
    projected, project = [], ThreatModel.project

    def watched(self, x_adv, x):
        projected.append(len(x))
        return project(self, x_adv, x)

    monkeypatch.setattr(ThreatModel, "project", watched)
    found = curve_at(0.02, [0.01, 0.04, 0.08], attacks=["tests.helpers.eval_models:idle"]).evaluation
    assert projected[-2:] == [found.clean.correct] * 2, "two radii of the curve, after the self-checks"
    assert found.clean.correct < found.clean.total


def test_the_curve_knows_the_distances_that_are_known():
    """The second attack fails, so the points of the curve come from the first attack."""
    found = curve_at(
        0.02,
        [0.005, 0.01, 0.04, 0.08],
        attacks=["tests.helpers.eval_models:nearest", "tests.helpers.eval_models:raises"],
    )
    distances = [sample.nearest["tests.helpers.eval_models:nearest"] for sample in found.evaluation.samples]
    for point in found.evaluation.curve:
        reached = sum(distance is not None and distance <= point.eps for distance in distances)
        assert point.robust.correct <= found.evaluation.clean.correct - reached


@pytest.mark.parametrize("eps", [0.002, 0.02])
def test_an_automatic_grid_ends_where_nothing_stands(eps):
    threat = ThreatModel("linf", eps)
    found = curve_at(eps, auto_grid(threat)).evaluation
    radii, shares = zip(*((point.eps, point.robust.accuracy) for point in found.curve), strict=True)
    assert radii[:5] == pytest.approx([0, eps / 4, eps / 2, 3 * eps / 4, eps])
    assert list(shares) == sorted(shares, reverse=True)
    assert shares[-1] <= 0.01 < shares[-2]
    assert len(radii) < len(auto_grid(threat))
    whole = curve_at(eps, [*auto_grid(threat)[:14]]).evaluation.curve
    assert len(whole) == 14, "a given grid is measured completely"
    assert [point.robust.correct for point in whole[: len(radii)]] == [point.robust.correct for point in found.curve]


def test_an_automatic_grid_ends_where_every_ball_holds_grey():
    """The attack changes nothing, so robust samples stay robust at every radius."""
    found = curve_at(0.02, auto_grid(ThreatModel("linf", 0.02)), attacks=["tests.helpers.eval_models:stopping"])
    last = [point.eps for point in found.evaluation.curve][-2:]
    assert last[0] < reach(found.x, "linf") <= last[1]
    assert found.evaluation.curve[-1].robust.accuracy == found.evaluation.clean.accuracy


def test_the_grid_is_chosen_by_the_option():
    threat, whole = ThreatModel("linf", 0.02), ThreatModel("linf", 1.0)
    assert choose_grid(None, threat, ATTACKS) == []
    assert choose_grid("0,0.1", threat, ATTACKS) == [0, 0.1]
    assert isinstance(choose_grid("auto", threat, ATTACKS), AutoGrid)
    assert choose_grid("auto", whole, ["patch"]) == [], "patches do not stay in small balls"
    assert max(choose_grid("auto", ThreatModel("l0", 20), ATTACKS, (3, 4, 4))) == 3 * 4 * 4
    with pytest.raises(InputError):
        choose_grid("automatic", threat, ATTACKS)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_reach_is_the_distance_to_grey(norm):
    x, _ = make_batch()
    distances = (x - 0.5).flatten(1).norm(dim=1, p=float("inf") if norm == "linf" else 2)
    assert reach(x, norm) == pytest.approx(distances.max().item())


@pytest.mark.slow
def test_curves_in_other_norms_fall_from_clean_accuracy_to_nothing():
    found = curve_at(0.02, [])
    net = make_net()
    once = measure_other_curves(*found.on(net), norms=["l2", "l1"], n=12, batch_size=16, seed=0)
    again = measure_other_curves(*found.on(net), norms=["l2"], n=12, batch_size=16, seed=0)
    assert once[:1] == again, "the same seed gives the same curve"
    assert [curve.norm for curve in once] == ["l2", "l1"]
    at = spaced(found.y, 12)
    clean = int((found.examples.clean == found.y)[at].sum())
    for curve in once:
        assert curve.n == 12
        radii, counts = zip(*((point.eps, point.robust.correct) for point in curve.points), strict=True)
        assert len(radii) == 9
        assert radii[0] == 0
        assert list(radii) == sorted(radii)
        assert counts[0] == clean
        assert list(counts) == sorted(counts, reverse=True)
        assert counts[-1] == 0
        assert counts[3] > 0, "the radii are spread over where the curve falls"
        point = curve.points[3]
        alone = evaluated(
            net, found.x[at], found.y[at], ThreatModel(curve.norm, point.eps), curve.attacks,
            precision="fp32", batch_size=16,
        )  # fmt: skip
        assert point.robust.correct == pytest.approx(alone.evaluation.robust.correct, abs=1)
    assert net.passes == 0, "the measure leaves the model unchanged"


def test_a_curve_that_never_falls_goes_to_the_farthest_radius_and_names_the_error():
    found = curve_at(0.02, [], attacks=["fgsm"])
    usual = torch.nn.functional.one_hot(found.y[0], 4)
    flat = Masked(make_net(), after=lambda logits: logits * 0 + usual)
    (curve,) = measure_other_curves(*found.on(flat), norms=["l2"], n=6, batch_size=16, seed=0)
    at = spaced(found.y, 6)
    standing = int((found.y[at] == found.y[0]).sum())
    assert {point.robust.correct for point in curve.points} == {standing}
    assert curve.points[-1].eps >= reach(found.x[at], "l2")

    blind = Masked(make_net())
    blind.differentiable = False
    with pytest.raises(InputError, match="gradients"):
        measure_other_curves(*found.on(blind), norms=["l2"], n=6, batch_size=16, seed=0)
