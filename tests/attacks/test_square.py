"""Square Attack: random search inside ball and box, with forward passes only."""

import pytest
import torch

from robustcls.attacks.square import square
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import margin
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from tests.helpers.attack_nets import Counting, linear, robust, robust_under_autoattack, trained_on_digits
from tests.helpers.seeds import seeded

EPS = {"linf": 0.15, "l2": 0.8, "l1": 3.0}
every_norm = pytest.mark.parametrize("norm", EPS)


@pytest.fixture(scope="module")
def trained():
    return trained_on_digits()


def test_it_needs_no_gradient(trained):
    class Blocked(torch.nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return trained[0](x)

    assert not traits_of(square).gradients
    x_adv = square(Blocked(), *trained[1:], ThreatModel("linf", 0.1), queries=5, generator=seeded())
    assert not x_adv.requires_grad


@every_norm
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (3, 5, 11), (2, 17, 3), (4, 1, 9)])
@pytest.mark.parametrize("early_stop", [True, False])
def test_any_shape_stays_inside_and_gains(norm, shape, early_stop):
    model, threat = linear(3, *shape), ThreatModel(norm, EPS[norm] / 2)
    x = torch.rand(9, *shape, generator=seeded(1))
    y = model(x).argmax(1)
    x_adv = square(model, x, y, threat, queries=80, early_stop=early_stop, generator=seeded())
    assert x_adv.shape == x.shape
    assert (threat.distance(x_adv, x) <= threat.eps + 1e-6).all()
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    gain = margin(model(x_adv), y) - margin(model(x), y)
    assert gain.min() >= -1e-6
    assert gain.max() > 0


def test_on_a_linear_model_it_comes_close_to_the_optimum():
    """At the optimum, each pixel lies at the end of its range towards which its weight points."""
    model, threat = linear(2, 1, 6, 6), ThreatModel("linf", 0.05)
    x = torch.rand(20, 1, 6, 6, generator=seeded(1))
    y = model(x).argmax(1)
    weight = (model[1].weight[1 - y] - model[1].weight[y]).view_as(x)
    best = margin(model((x + 0.05 * weight.sign()).clamp(0, 1)), y)
    x_adv = square(model, x, y, threat, queries=2500, early_stop=False, generator=seeded())
    gained = margin(model(x_adv), y) - margin(model(x), y)
    assert (gained > 0.93 * (best - margin(model(x), y))).all()


@every_norm
def test_robust_accuracy_is_autoattacks(norm, trained):
    net, x, y = trained
    threat = ThreatModel(norm, EPS[norm])
    theirs = robust_under_autoattack(net, x, y, threat, "square", n_queries=400)
    ours = [
        robust(net, square(net, x, y, threat, queries=400, generator=seeded(seed)), x, y, threat) for seed in (0, 1)
    ]
    assert 0.1 < sum(ours) / 2 < 0.9, "too few or too many samples are broken for a comparison"
    # AutoAttack's code never puts a square at the last row or column, so ours may break more samples.
    assert theirs - 0.25 < sum(ours) / 2 < theirs + 0.05, "the robust accuracies differ too much"


@every_norm
def test_more_queries_find_more_and_the_fooled_cost_nothing(norm, trained):
    net, x, y = trained
    threat, shares = ThreatModel(norm, EPS[norm]), []
    for queries in (10, 300):
        model = Counting(net)
        x_adv = square(model, x, y, threat, queries=queries, generator=seeded())
        shares.append(robust(net, x_adv, x, y, threat))
        assert model.passes <= queries + 2
    assert shares[1] < shares[0]
    assert shares[1] * 300 * len(x) <= model.images < 0.5 * (1 + shares[0]) * 302 * len(x)
    everywhere = Counting(net)
    square(everywhere, x, y, threat, queries=10, early_stop=False, generator=seeded())
    assert everywhere.images == 12 * len(x)


@every_norm
def test_the_generator_alone_decides(norm, trained):
    net, x, y = trained
    threat, state = ThreatModel(norm, EPS[norm] / 3), torch.get_rng_state()
    first, again, other = (square(net, x, y, threat, queries=30, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("wrong", [{"queries": 0}, {"restarts": 0}, {"p_init": 0.0}, {"p_init": 1.5}])
def test_wrong_options_are_named(wrong):
    with pytest.raises(InputError, match="give 1 query or more"):
        square(linear(2, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), ThreatModel("l2", 1), **wrong)


@every_norm
def test_it_goes_on_from_a_start_that_is_better(trained, norm):
    """The start comes from gradients, and the result stays inside ball and box."""
    net, x, y = trained
    threat = ThreatModel(norm, EPS[norm])
    start = threat.project(x + threat.eps * threat.steepest(input_gradient(net, x, y)), x)
    found = square(net, x, y, threat, queries=1, start=start, generator=seeded())
    assert (margin(net(found), y) >= margin(net(start), y) - 1e-6).all(), "the result is at least as good as the start"
    assert (threat.distance(found, x) <= threat.eps + 1e-6).all()
    longer = square(net, x, y, threat, queries=60, start=start, p_init=0.1, generator=seeded())
    assert margin(net(longer), y).mean() > margin(net(found), y).mean()
    assert (threat.distance(longer, x) <= threat.eps + 1e-6).all()


class Climbing(torch.nn.Module):
    """A model in which the margin of a sample starts at -1 and rises with each forward pass, by an amount that the first pixel
    selects."""

    def __init__(self):
        super().__init__()
        self.met = {0.1: 0, 0.2: 0, 0.3: 0}
        self.rise = {0.1: 0.0, 0.2: 0.02, 0.3: 0.001}

    def forward(self, x):
        kinds = [round(value, 1) for value in x[:, 0, 0, 0].round(decimals=1).tolist()]
        for kind in kinds:
            self.met[kind] += 1
        lead = torch.tensor([-1 + self.rise[kind] * self.met[kind] for kind in kinds])
        return torch.stack([-lead / 2, lead / 2], 1)


@every_norm
def test_restarts_search_anew_for_those_that_are_left_and_lose_nothing(norm, trained):
    net, x, y = trained
    threat = ThreatModel(norm, EPS[norm])
    once, again = (square(net, x, y, threat, queries=20, restarts=restarts, generator=seeded()) for restarts in (1, 6))
    with torch.no_grad():
        first, last = (margin(net(x_adv), y) for x_adv in (once, again))
    broken = first > 0
    assert 0 < broken.sum() < len(y)
    torch.testing.assert_close(again[broken], once[broken])
    assert (last > 0).sum() > broken.sum()
    assert (threat.distance(again, x) <= threat.eps + 1e-6).all()


def queries_of(kinds, **options):
    model, x = Climbing(), torch.full((len(kinds), 1, 4, 4), 0.5)
    x[:, 0, 0, 0] = torch.tensor(kinds)
    square(model, x, torch.zeros(len(kinds)).long(), ThreatModel("linf", 0.04), generator=seeded(), **options)
    return [model.met[kind] for kind in kinds]


def test_after_a_look_a_sample_goes_on_as_long_as_its_gains_would_suffice():
    """The first sample gains nothing. The second gains 0.16 from query 8 to 16, which suffices for the 6 doublings that follow.
    The third gains 0.008, 0.016, 0.032 ..., which at no look suffices for the queries that are left."""
    still, climbing, slow = queries_of([0.1, 0.2, 0.3], queries=1024, look=16)
    assert still == slow == 1 + 17, "one query for the clean image and one for the start, then 16"
    assert climbing == 51, "the sample leaves once its margin is above 0"
    assert queries_of([0.1], queries=100) == [1 + 101], "without looks, no sample leaves early"


def test_no_sample_of_a_look_decides_for_another():
    assert [queries_of([kind], queries=1024, look=16)[0] for kind in (0.1, 0.2, 0.3)] == [18, 51, 18]


def test_within_selects_the_samples_that_the_start_brought_close(trained):
    net, x, y = trained
    threat = ThreatModel("linf", 0.1)
    start = square(net, x, y, threat, queries=50, generator=seeded())
    far = square(net, x, y, threat, queries=50, within=1e-6, start=start, generator=seeded(1))
    right = margin(net(start), y) <= -1e-3
    assert torch.equal(far[right], x[right]), "samples that are not attacked are returned unchanged"


def test_where_no_sample_came_close_no_empty_batch_is_asked():
    """Networks that take their shape from the batch cannot run on an empty one."""

    def model(x):
        assert len(x) > 0
        return x.flatten(1)[:, :2] + torch.tensor([1.0, 0.0])

    x, y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    found = square(model, x, y, ThreatModel("linf", 0.1), queries=20, within=0.1, start=x)
    assert torch.equal(found, x)
