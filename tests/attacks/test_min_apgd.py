"""min_apgd against the exact distance of a linear model, and its parts."""

import pytest
import torch
from torch import nn

import robustcls
from robustcls.attacks._hyperplane import to_hyperplane
from robustcls.attacks.malt import nearest_classes
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import deeper_net, fit_digits, linear
from tests.helpers.seeds import seeded

NORMS = ("linf", "l2", "l1")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_linear_model_is_broken_at_its_exact_distance(norm, num_classes):
    net, threat = linear(num_classes, 48), ThreatModel(norm, 1)
    x = torch.rand(40, 3, 4, 4, generator=seeded())
    with torch.no_grad():
        y = net(x).argmax(1)
    weight, bias, flat = net[1].weight.detach(), net[1].bias.detach(), x.flatten(1)
    ways = []
    for other in range(num_classes):
        delta = to_hyperplane(norm, flat, weight[other] - weight[y], bias[y] - bias[other])
        size = threat.distance((flat + delta).view_as(x), x)
        ways.append(size.where(y != other, torch.inf))
    exact = torch.stack(ways).amin(0)
    x_adv = robustcls.attack(net, x, y, threat, "min_apgd")
    distance = threat.distance(x_adv, x)
    with torch.no_grad():
        assert (net(x_adv).argmax(1) != y).all()
    assert (distance >= exact * (1 - 1e-4)).all(), "nothing is nearer than the optimum"
    ratio = distance / exact
    assert ratio.median() <= (1.15 if norm == "l1" else 1.005)
    assert ratio.max() <= (1.6 if norm == "l1" else 1.02)


def test_classes_come_in_the_order_of_their_linear_distance():
    net = linear(5, 48)
    x = torch.rand(20, 3, 4, 4, generator=seeded())
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    weight = net[1].weight.detach()
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", float("inf"))):
        gaps = logits.gather(1, y[:, None]) - logits
        lengths = torch.linalg.vector_norm(weight[None] - weight[y][:, None], ord=dual, dim=2)
        way = (gaps / lengths).scatter(1, y[:, None], torch.inf)
        classes, distances = nearest_classes(net, x, y, ThreatModel(norm, 1))
        assert torch.equal(classes, way.argsort(dim=1)[:, :4])
        torch.testing.assert_close(distances, way.sort(dim=1).values[:, :4], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_more_runs_come_nearer_and_no_radius_is_needed(norm):
    net = deeper_net()
    x, y = fit_digits(net, epochs=6, noise=0.1)
    x, y = x[:40], y[:40]
    short, long = (
        robustcls.attack(net, x, y, ThreatModel(norm, 1), f"min_apgd(steps=10, radii={radii})") for radii in (6, 30)
    )
    threat, other = ThreatModel(norm, 1), ThreatModel(norm, 0)
    assert torch.equal(robustcls.attack(net, x, y, other, "min_apgd(steps=10, radii=6)"), short)
    near, far = threat.distance(long, x), threat.distance(short, x)
    assert (near <= far).all(), "the nearest example of all runs is kept"
    assert near.mean() < 0.995 * far.mean()


def test_without_gradients_it_begins_from_an_adversarial_image():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear(3, 48)

        def forward(self, x):
            return self.net((x * 4).round() / 4)

    net, x = Masked(), torch.rand(12, 3, 4, 4, generator=seeded())
    with torch.no_grad():
        y = net(x).argmax(1)
    x_adv = robustcls.attack(net, x, y, ThreatModel("l2", 1), "min_apgd(steps=5, radii=10)")
    with torch.no_grad():
        assert (net(x_adv).argmax(1) != y).float().mean() > 0.5


@pytest.mark.parametrize("option", ["steps", "radii", "targets"])
def test_options_below_one_are_refused(option):
    with pytest.raises(InputError, match=f"min_apgd\\({option}=0\\): give more than 0"):
        robustcls.attack(linear(2, 48), torch.rand(1, 3, 4, 4), torch.zeros(1).long(), "l2:1", f"min_apgd({option}=0)")
