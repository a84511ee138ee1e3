"""Random noise: the baseline."""

import pytest
import torch

from robustcls.attacks.noise import noise
from robustcls.core.errors import InputError
from robustcls.core.losses import margin
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from tests.helpers.attack_nets import Counting, linear, trained_on_digits
from tests.helpers.seeds import seeded

EPS = {"linf": 0.3, "l2": 2.0, "l1": 8.0}
every_norm = pytest.mark.parametrize("norm", EPS)


@pytest.fixture(scope="module")
def trained():
    return trained_on_digits()


@every_norm
def test_it_draws_inside_and_on_the_surface_and_keeps_the_worst(norm):
    seen, threat = [], ThreatModel(norm, EPS[norm] / 30)
    net, x = linear(3, 2, 5, 7), 0.5 + 0.1 * torch.rand(8, 2, 5, 7, generator=seeded(1))

    def model(points):
        seen.append(points.clone())
        return net(points)

    y = net(x).argmax(1)
    x_adv = noise(model, x, y, threat, draws=6, early_stop=False, generator=seeded())
    assert len(seen) == 7
    sizes = torch.stack([threat.distance(points, x) for points in seen]) / threat.eps
    assert sizes.max() <= 1 + 1e-5
    assert (sizes[2::2] > 0.99).all(), "every second draw lies on the surface"
    assert (sizes[1::2] < 1).any(), "the other draws lie inside the ball"
    margins = torch.stack([margin(net(points), y) for points in seen])
    torch.testing.assert_close(margin(net(x_adv), y), margins.amax(0))


def test_it_needs_no_gradient():
    assert not traits_of(noise).gradients


def test_the_fooled_leave(trained):
    net, x, y = trained
    counts = []
    for eps in (0.9, 0.01):
        model = Counting(net)
        noise(model, x, y, ThreatModel("linf", eps), draws=10, generator=seeded())
        counts.append(model.images)
    assert counts[0] < 0.8 * counts[1]
    assert counts[1] <= 11 * len(x)
    model = Counting(net)
    assert torch.equal(noise(model, x, (y + 1) % 10, ThreatModel("linf", 0.1), generator=seeded()), x)
    assert model.images == len(x)


@every_norm
def test_the_generator_alone_decides(norm, trained):
    net, x, y = trained
    threat = ThreatModel(norm, EPS[norm])
    first, again, other = (noise(net, x, y, threat, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_draws_are_refused():
    with pytest.raises(InputError, match="give 1 or more"):
        noise(linear(2, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), ThreatModel("l2", 1), draws=0)
