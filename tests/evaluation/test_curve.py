import pytest
import torch
from eval_models import make_batch, make_net

from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.curve import parse_grid
from robustcls.evaluation.judge import judge

ATTACKS = ["pgd(steps=3)", "apgd_t(steps=5)"]
GRID = [0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.3]


def curve_at(eps, grid=GRID, attacks=ATTACKS, norm="linf", **options):
    x, y = make_batch()
    options = {"kind": "test", "precision": "fp32", "batch_size": 16, "eps_grid": grid} | options
    return judge(make_net(), x, y, ThreatModel(norm, eps), attacks, **options)


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
        assert point.robust.correct == pytest.approx(alone.robust.correct, abs=2)  # from other random starts


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
    found = curve_at(0.02, [0.01], attacks=["eval_models:raises", "fgsm"]).evaluation
    assert [bool(point.error) for point in found.curve] == [True, False]
    assert found.curve[0].error.startswith("eval_models:raises: RuntimeError")


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
    assert ThreatModel("linf", 0.02).distance(found.outcome.x_adv, x).max() <= 0.02 + 1e-6, "the curve has its own"


def test_the_curve_knows_the_distances_that_are_known():
    """An attack that gives nothing the second time: the points come from the first."""
    found = curve_at(0.02, [0.005, 0.01, 0.04, 0.08], attacks=["test_engine:nearest", "eval_models:raises"])
    distances = [sample.nearest["test_engine:nearest"] for sample in found.evaluation.samples]
    for point in found.evaluation.curve:
        reached = sum(distance is not None and distance <= point.eps for distance in distances)
        assert point.robust.correct <= found.evaluation.clean.correct - reached
