"""Targeted FAB: the nearest example, or any inside the ball."""

import pytest
import torch
import torch.nn.functional as F

from robustcls.attacks.fab_t import fab_t
from robustcls.core.errors import InputError
from robustcls.core.losses import margin
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_nets import Counting, linear, robust, robust_under_autoattack, trained_on_digits
from tests.helpers.seeds import seeded

DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}
EPS = {"linf": 0.15, "l2": 0.8, "l1": 1.2}
every_norm = pytest.mark.parametrize("norm", EPS)


@pytest.fixture(scope="module")
def trained():
    return trained_on_digits()


@every_norm
@pytest.mark.parametrize("num_classes", [2, 3, 6])
@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 3, 9)])
def test_the_minimal_distance_of_a_linear_model_is_found(norm, num_classes, shape):
    """It is the logit gap divided by the dual norm of the weight difference, for the nearest class; the box is far away."""
    model = linear(num_classes, *shape)
    model[1].bias.copy_(-0.5 * model[1].weight.sum(1))  # all boundaries pass through grey
    x = 0.5 + 0.1 * (torch.rand(40, *shape, generator=seeded()) - 0.5)
    logits = model(x)
    y = logits.argmax(1)
    slopes = torch.linalg.vector_norm(model[1].weight - model[1].weight[y][:, None], ord=DUAL[norm], dim=2)
    best = ((logits.gather(1, y[:, None]) - logits) / slopes.clamp_min(1e-9))[F.one_hot(y, num_classes) == 0]
    best = best.view(40, -1).amin(1)
    threat = ThreatModel(norm, 1e-4)

    x_adv = fab_t(model, x, y, threat, steps=30, early_stop=False)

    found = threat.distance(x_adv, x)
    assert best.max() < 0.3, "the box would matter"
    assert (margin(model(x_adv), y) > 0).all()
    assert (found >= best - 1e-5).all(), "nothing is nearer than the optimum"
    assert (found <= 1.02 * best + 2e-5).all()


@every_norm
def test_it_stops_inside_the_ball_or_goes_on_to_the_nearest(norm, trained):
    net, x, y = trained
    threat = ThreatModel(norm, EPS[norm])
    inside, nearest = (fab_t(net, x, y, threat, steps=30, early_stop=stop) for stop in (True, False))
    for x_adv in (inside, nearest):
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    assert (threat.distance(inside, x) <= threat.eps + 1e-6).all()
    assert (margin(net(nearest), y) > 0).all(), "every image has an adversarial example"
    assert (threat.distance(nearest, x) > threat.eps).any()
    assert robust(net, inside, x, y, threat) == pytest.approx(robust(net, nearest, x, y, threat), abs=0.035)
    assert threat.distance(nearest, x).mean() < threat.distance(inside, x).mean() + 1
    survivors = margin(net(inside), y) <= 0
    assert (margin(net(inside), y) > margin(net(x), y))[survivors].float().mean() > 0.9, (
        "failed attempts inside the ball"
    )


@every_norm
def test_robust_accuracy_and_distances_are_autoattacks(norm, trained):
    net, x, y = trained
    threat = ThreatModel(norm, EPS[norm])
    theirs = robust_under_autoattack(net, x, y, threat, "fab-t", n_target_classes=9, n_iter=50)
    ours = robust(net, fab_t(net, x, y, threat, steps=50), x, y, threat)
    assert 0.1 < ours < 0.9, "the case tells nothing"
    assert ours == pytest.approx(theirs, abs=0.035)


def test_samples_that_are_fooled_meet_no_further_step(trained):
    net, x, y = trained
    counts = []
    for eps in (0.3, 0.05):
        model = Counting(net)
        fab_t(model, x, y, ThreatModel("linf", eps), steps=20)
        counts.append(model.images)
    assert counts[0] < 0.2 * counts[1]
    assert counts[1] <= len(x) * (1 + 9 * 21), "one forward pass per step"
    model = Counting(net)
    fab_t(model, x, (y + 1) % 10, ThreatModel("linf", 0.1))
    assert model.images <= 2 * len(x), "these samples are misclassified from the start"


def test_restarts_begin_at_random_and_do_not_weaken_it(trained):
    net, x, y = trained
    threat = ThreatModel("l2", EPS["l2"])
    once, again, other = (
        fab_t(net, x, y, threat, steps=5, targets=1, restarts=3, early_stop=False, generator=seeded(seed))
        for seed in (1, 1, 2)
    )
    alone = fab_t(net, x, y, threat, steps=5, targets=1, early_stop=False)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    found = margin(net(alone), y) > 0
    assert (threat.distance(once, x) <= threat.distance(alone, x))[found].all()


@pytest.mark.parametrize("option", ["steps", "targets", "restarts"])
def test_nothing_to_do_is_refused(option):
    with pytest.raises(InputError, match="give 1 or more"):
        fab_t(linear(2, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), ThreatModel("l2", 1), **{option: 0})
