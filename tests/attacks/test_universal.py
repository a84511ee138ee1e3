"""The universal perturbation, against closed forms, and against noise on unseen images."""

import pytest
import torch
from torch import nn

import robustcls
from robustcls.attacks.universal import universal
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import deeper_net, fit_digits

RADII = {"linf": 0.1, "l2": 0.8, "l1": 3.0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def linear():
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(2, 72, generator=seeded()))
        net[1].bias.zero_()
    return net


def perturbation(x_adv, x):
    """Return the perturbation shared by all images; fail if it is not shared."""
    delta = x_adv - x
    torch.testing.assert_close(delta, delta[:1].expand_as(delta), rtol=0, atol=1e-6)
    return delta[:1]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_a_linear_model_it_is_the_steepest_way_of_the_whole_radius(norm):
    """For samples of class 0, it is eps times the direction of steepest ascent of the difference of the two logits."""
    net, x = linear(), 0.5 + 0.05 * torch.randn(50, 2, 6, 6, generator=seeded(1))
    y = torch.zeros(50, dtype=torch.int64)
    threat = ThreatModel(norm, RADII[norm])
    w = (net[1].weight[1] - net[1].weight[0]).detach().view(1, 2, 6, 6)
    expected = threat.eps * (w.sign() if norm == "linf" else w / w.norm())
    found = perturbation(robustcls.attack(net, x, y, threat, "universal(steps=300)"), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", RADII)
def test_it_is_one_for_all_inside_the_ball_and_images_are_clipped(norm):
    net, threat = linear(), ThreatModel(norm, RADII[norm])
    x = torch.rand(70, 2, 6, 6, generator=seeded(2))
    y = net(x).argmax(1)
    x_adv = universal(net, x, y, threat, steps=20, generator=seeded())
    inner = ((x_adv > 0) & (x_adv < 1)).flatten(1)  # pixels that the box did not cut off
    delta = (x_adv - x).flatten(1)
    for place in range(72):
        values = delta[inner[:, place], place]
        torch.testing.assert_close(values, values[:1].expand_as(values), rtol=0, atol=1e-5)
    assert (threat.distance(x_adv, x) <= threat.eps + 1e-6).all()
    assert (delta != 0).any()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


def test_it_carries_over_to_images_that_it_has_not_seen():
    net = deeper_net()
    x, y = fit_digits(net, epochs=12)
    threat = ThreatModel("linf", 0.25)
    delta = (universal(net, x[:200], y[:200], threat, generator=seeded()) - x[:200]).flatten(1)
    whole = delta.gather(0, delta.abs().argmax(0)[None]).view_as(x[:1])  # as at pixels that the box did not cut off
    unseen, labels = x[200:400], y[200:400]
    with torch.no_grad():
        ours = (net((unseen + whole).clamp(0, 1)).argmax(1) == labels).float().mean()
        noise = (net(threat.random_start(unseen, seeded())).argmax(1) == labels).float().mean()
    assert ours < noise - 0.2


def test_one_extreme_sample_does_not_decide_for_all():
    """With an unbounded loss, the sample with the largest gradient, far misclassified already, would dominate every step."""
    x = torch.full((21, 1, 2, 2), 0.5)
    x[0] = 0.2

    class Net(nn.Module):
        def forward(self, x):
            far = (x.mean((1, 2, 3)) < 0.3).float()
            slope = torch.where(far > 0, -100.0, 1.0)
            offset = torch.where(far > 0, 100.0, 0.0)
            z = slope * (x.mean((1, 2, 3)) - 0.5) + offset
            return torch.stack([torch.zeros_like(z), z], 1)

    y = torch.zeros(21, dtype=torch.int64)
    x_adv = universal(Net(), x, y, ThreatModel("linf", 0.02), steps=50, batch_size=21, generator=seeded())
    assert (x_adv[1:] > x[1:]).all()


def test_the_cascade_judges_it():
    net = deeper_net()
    x, y = fit_digits(net, epochs=6)
    result = robustcls.evaluate(net, x[:100], y[:100], "linf:0.2", attacks=["universal(steps=60)", "pgd(steps=5)"])
    first, second = result.attacks
    assert first.broken > 0
    assert second.broken > 0
    assert not first.error


@pytest.mark.parametrize("options", ["steps=0", "batch_size=0", "step_size=0.0", "step_size=-0.1"])
def test_bad_options(options):
    with pytest.raises(InputError, match="give 1 step or more"):
        robustcls.attack(linear(), torch.rand(2, 2, 6, 6), torch.tensor([0, 1]), "linf:0.1", f"universal({options})")
