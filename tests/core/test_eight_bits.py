from dataclasses import replace

import pytest
import torch
from torch import nn

from robustcls.core.eight_bits import note_on_levels, rounded, rounded_inside, takes_eight_bits, whole_levels
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel

THREAT = ThreatModel("linf", "8/255")
RADII = [("linf", 0.1), ("linf", 8 / 255), ("linf", 0.5 / 255), ("l2", 0.05), ("l2", 1.0), ("l1", 0.5), ("l1", 6.0)]


def clean(n=64):
    return torch.randint(0, 256, (n, 3, 6, 6), generator=torch.Generator().manual_seed(1)) / 255


def on_the_sphere(x, threat, seed=2):
    """Return images on the surface of the ball around x."""
    away = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    if threat.norm == "linf":
        return (x + threat.eps * away.sign()).clamp(0, 1)
    sizes = away.flatten(1).norm(p=1 if threat.norm == "l1" else 2, dim=1).view(-1, 1, 1, 1)
    return (x + threat.eps * away / sizes).clamp(0, 1)


def is_in_eight_bits(x):
    return torch.equal((x * 255).round() / 255, x)


@pytest.mark.parametrize(("norm", "eps"), RADII)
def test_adversarial_images_in_eight_bits_stay_in_the_ball_and_near(norm, eps):
    threat, x = ThreatModel(norm, eps), clean()
    x_adv = on_the_sphere(x, threat)
    found = rounded_inside(x_adv, x, threat)
    assert is_in_eight_bits(found)
    assert (threat.distance(found, x) <= eps + 1e-6).all()
    assert found.amin() >= 0
    assert found.amax() <= 1
    assert (found - x_adv).abs().max() < 1.001 / 255  # at most one level, up or down


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.0), ("l1", 6.0)])
def test_an_image_is_rounded_towards_the_clean_one_by_as_little_as_suffices(norm, eps):
    threat, x = ThreatModel(norm, eps), clean()
    x_adv = on_the_sphere(x, threat)
    cut = x + ((x_adv - x) * 255).trunc() / 255
    found = rounded_inside(x_adv, x, threat)
    assert threat.distance(found, x).mean() > threat.distance(cut, x).mean()


def test_an_image_whose_nearest_levels_lie_in_the_ball_becomes_these():
    threat, x = ThreatModel("linf", 8 / 255), clean()
    x_adv = x + (on_the_sphere(x, threat) - x) * 0.9
    nearest = (x_adv * 255).round() / 255
    assert torch.equal(rounded_inside(x_adv, x, threat), nearest)
    assert torch.equal(rounded(x_adv), nearest)
    assert (nearest > x_adv).any(), "up"
    assert (nearest < x_adv).any(), "and down"


def test_an_image_outside_ball_or_box_stays_outside():
    threat, x = ThreatModel("linf", 2 / 255), clean(2)
    far = torch.stack([(x[0] + 10.3 / 255).clamp(0, 1), x[1] + 1])
    found = rounded_inside(far, x, threat)
    assert torch.equal(found, (far * 255).round() / 255)
    assert (threat.distance(found, x) > threat.eps).all()
    assert found[1].amax() > 1


def test_values_that_are_no_numbers_stay_so():
    x = clean(2)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] = torch.nan
    found = rounded_inside(x_adv, x, ThreatModel("l2", 1.0))
    assert found[0, 0, 0, 0].isnan()
    assert torch.equal(found[1], x[1])


@pytest.mark.parametrize(
    ("threat", "levels"), [("linf:0.1", 25), ("linf:8/255", 8), ("linf:0.001", 0), ("linf:1", 255), ("linf:0", 0)]
)
def test_the_radius_of_linf_in_whole_levels(threat, levels):
    assert whole_levels(ThreatModel.parse(threat)).eps == pytest.approx(levels / 255, abs=1e-9)


def test_other_norms_keep_their_radius():
    assert whole_levels(ThreatModel("l2", 0.3)).eps == 0.3


def test_a_model_says_that_it_sees_eight_bits_from_inside_a_wrapper():
    inner = nn.Identity()
    model = nn.Sequential(nn.Sequential(inner))
    assert not takes_eight_bits(model, THREAT)
    assert takes_eight_bits(model, replace(THREAT, eight_bit=True))
    inner.eight_bits = True
    assert takes_eight_bits(model, THREAT)


@pytest.mark.parametrize(
    ("threat", "note"),
    [
        ("linf:8/255", ""),
        ("linf:1/255", ""),
        ("linf:0.03", "linf:7/255"),
        ("linf:0.0074", "linf:1/255"),
        ("l2:0.3", ""),
    ],
)
def test_the_radius_that_is_searched_is_named(threat, note):
    said = note_on_levels(ThreatModel.parse(threat))
    assert (note in said) if note else said == ""


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_ball_without_another_image_is_refused(norm):
    assert note_on_levels(ThreatModel(norm, 1 / 255)) == ""
    with pytest.raises(InputError, match="less than a grey level"):
        note_on_levels(ThreatModel(norm, 0.99 / 255))
