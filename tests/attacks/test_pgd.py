"""PGD takes the steps of the papers, and samples leave the batch once they are misclassified."""

import pytest
import torch
from torch import Tensor

from robustcls.attacks.pgd import pgd
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy, margin, misclassified
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import Counting, linear, robust, trained_on_digits
from tests.helpers.seeds import seeded

EPS = {"linf": 0.1, "l2": 0.6, "l1": 1.2}
every_norm = pytest.mark.parametrize("norm", EPS)


@pytest.fixture(scope="module")
def trained():
    return trained_on_digits()


def iterates(net, x, y, threat, steps, generator) -> list[Tensor]:
    """Return the points of the PGD loop of Madry et al., including the random start."""
    points = [threat.random_start(x, generator)]
    for _ in range(steps):
        step = 2.5 * threat.eps / steps * threat.steepest(input_gradient(net, points[-1], y, cross_entropy))
        points.append(threat.project(points[-1] + step, x))
    return points


@every_norm
def test_plain_pgd_is_the_loop_bit_for_bit(trained, norm):
    net, x, y = trained
    threat, generator = ThreatModel(norm, EPS[norm]), seeded()
    runs = [iterates(net, x, y, threat, 4, generator)[-1] for _ in range(3)]
    given = {"steps": 4, "early_stop": False}
    assert torch.equal(pgd(net, x, y, threat, generator=seeded(), **given), runs[0])
    assert torch.equal(pgd(net, x, y, threat, momentum=0.0, generator=seeded(), **given), runs[0])
    worst = torch.stack([margin(net(run), y) for run in runs]).argmax(0)
    expected = torch.stack(runs)[worst, torch.arange(len(x))]
    assert torch.equal(pgd(net, x, y, threat, restarts=3, generator=seeded(), **given), expected)


def test_the_momentum_method_is_its_papers(trained):
    """The steps are equations 6 and 7 of Dong et al. 2017. Results are not bit-equal, because a sign flips where the sum is
    within rounding error of 0."""
    net, x, y = trained
    threat, expected, sums = ThreatModel("linf", 0.1), x, torch.zeros_like(x)
    for _ in range(5):
        grad = input_gradient(net, expected, y)
        sums = 0.9 * sums + grad / grad.flatten(1).abs().sum(1).view(-1, 1, 1, 1)
        expected = threat.project(expected + 0.02 * sums.sign(), x)
    given = {"steps": 5, "step_size": 0.02, "random_start": False, "early_stop": False}
    found = pgd(net, x, y, threat, momentum=0.9, **given)
    assert ((found - expected).abs() < 1e-5).float().mean() > 0.999
    assert ((found - pgd(net, x, y, threat, **given)).abs() > 1e-3).any(), "momentum does nothing"


def test_momentum_without_a_gradient_stays_where_it_is():
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.zeros(3, dtype=torch.long)
    flat = linear(2, 1, 2, 2)
    flat[1].weight.zero_()
    for early_stop in (False, True):
        found = pgd(flat, x, y, ThreatModel("linf", 0.1), momentum=1.0, random_start=False, early_stop=early_stop)
        assert torch.equal(found, x)


@every_norm
@pytest.mark.parametrize("steps", [1, 8])
def test_early_stop_returns_the_first_iterate_that_fools(trained, norm, steps):
    net, x, y = trained
    threat = ThreatModel(norm, EPS[norm])
    points = torch.stack(iterates(net, x, y, threat, steps, seeded()))
    fooled = torch.stack([misclassified(net(point), y) for point in points])
    fooled[-1] = True
    first = fooled.float().argmax(0)

    counting = Counting(net)
    x_adv = pgd(counting, x, y, threat, steps=steps, early_stop=True, generator=seeded())

    torch.testing.assert_close(x_adv, points[first, torch.arange(len(x))], rtol=0, atol=1e-4)
    assert counting.images == sum((first >= i).sum() for i in range(steps))
    if steps > 1:
        assert counting.images < steps * len(x)
        assert 0 < (first < steps).sum() < len(x)


@every_norm
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_early_stop_breaks_as_many_for_less(trained, norm, momentum):
    net, x, y = trained
    threat, counting, plain = ThreatModel(norm, EPS[norm]), Counting(net), Counting(net)
    given = {"steps": 20, "restarts": 3, "momentum": momentum}
    stopped = pgd(counting, x, y, threat, early_stop=True, generator=seeded(), **given)
    whole = pgd(plain, x, y, threat, early_stop=False, generator=seeded(), **given)
    assert robust(net, stopped, x, y, threat) <= robust(net, whole, x, y, threat) + 1 / len(x)
    assert counting.images < 0.9 * plain.images
    assert threat.distance(stopped, x).max() <= threat.eps + 1e-6


def test_the_fooled_do_not_meet_later_restarts(trained):
    net, x, y = trained
    threat, met = ThreatModel("linf", 0.1), []

    class Watching(Counting):
        def forward(self, images: Tensor) -> Tensor:
            met.append(len(images))
            return super().forward(images)

    given = {"steps": 10, "early_stop": True}
    x_adv = pgd(Watching(net), x, y, threat, restarts=2, generator=seeded(), **given)
    left = len(x) - misclassified(net(pgd(net, x, y, threat, generator=seeded(), **given)), y).sum()
    assert met[:12].count(len(x)) >= 1
    assert met[10] == len(x), "the first restart is judged as a whole"
    assert met[11] == left, "the second begins with the survivors"
    everywhere = pgd(net, x, y, ThreatModel("linf", 0.9), restarts=50, generator=seeded(), **given)
    assert misclassified(net(everywhere), y).all()
    assert robust(net, x_adv, x, y, threat) <= left / len(x)


@pytest.mark.parametrize("early_stop", [False, True])
def test_two_classes_reach_the_optimum(early_stop):
    net = linear(2, 3, 4, 4)
    x = 0.5 + 0.1 * (torch.rand(20, 3, 4, 4, generator=seeded()) - 0.5)
    y = net(x).argmax(1)
    slope = (net[1].weight[0] - net[1].weight[1]).abs().sum()
    x_adv = pgd(net, x, y, ThreatModel("linf", 0.05), steps=10, early_stop=early_stop, momentum=1.0, generator=seeded())
    best, found = margin(net(x), y) + 0.05 * slope, margin(net(x_adv), y)
    assert ((found > 0) == (best > 0)).all()
    assert (found <= best + 1e-5).all()
    if not early_stop:
        torch.testing.assert_close(found, best, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{"steps": 0}, {"restarts": 0}, {"momentum": -0.5}])
def test_wrong_options_are_named(trained, options):
    with pytest.raises(InputError, match=rf"pgd\(.*{next(iter(options))}=.*give"):
        pgd(*trained, ThreatModel("linf", 0.1), **options)
