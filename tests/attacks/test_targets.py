"""Attacks that aim at a class: the closed form on linear models, and the direction of the loss."""

import pytest
import torch
from torch import Tensor

import robustcls
from robustcls.attacks._goal import Goal
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, margin, targeted_dlr
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import takes_target
from tests.helpers.attack_contract import EPS, cheap, threat_of, traits
from tests.helpers.attack_nets import linear, trained_on_digits
from tests.helpers.seeds import seeded

AIMING = [name for name in plugins.names("attack") if takes_target(plugins.load("attack", name))]
GRADIENT = [name for name in AIMING if traits(name).gradients]


@pytest.fixture(scope="module")
def trained():
    return trained_on_digits(40)


def test_the_signature_says_which_attacks_can_aim():
    """`patch` and `contrast` have an option of that name, a number."""
    assert {"apgd_ce", "apgd_dlr", "fgsm", "n_fgsm", "noise", "pgd", "square"} <= set(AIMING)
    assert not {"contrast", "fab_t", "patch"} & set(AIMING)
    assert "target" in plugins.resolved("attack", "patch")
    assert not any("target" in plugins.resolved("attack", name) for name in AIMING)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize(
    "spec", ["fgsm", "pgd(steps=50)", "pgd(steps=50, early_stop=False)", "apgd_ce(steps=50)", "apgd_dlr(steps=50)"]
)
def test_with_two_classes_the_target_is_reached_where_the_optimum_reaches_it(spec, norm, dual):
    """The gap closes by eps times the dual norm of the difference of the weights; the box is far."""
    model = linear(2, 3, 4, 4)
    x = 0.5 + 0.1 * (torch.rand(40, 3, 4, 4, generator=seeded(1)) - 0.5)
    y = model(x).argmax(1)
    target = 1 - y
    slope = torch.linalg.vector_norm(model[1].weight[0] - model[1].weight[1], ord=dual)
    gap = margin(model(x), target)
    eps = (gap / slope).median().item() * 1.01
    assert eps < (0.45 if norm == "linf" else 2), "the box would matter"
    x_adv = robustcls.attack(model, x, y, ThreatModel(norm, eps), spec, target=target)
    left = margin(model(x_adv), target)
    assert (left >= gap - eps * slope - 1e-5).all(), "nothing beats the optimum"
    assert ((left < 0) == (gap < 0.999 * eps * slope))[(gap / slope / eps - 1).abs() > 0.01].all()
    assert 10 < (left < 0).sum() < 30


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("name", GRADIENT)
def test_the_loss_towards_the_target_falls(name, norm, trained):
    net, x, y = trained
    target = (y + 3) % 10
    threat = ThreatModel(norm, {"linf": 0.05, "l2": 0.3, "l1": 1.0}[norm])
    x_adv = robustcls.attack(net, x, y, threat, cheap(name, noise=0.1), target=target)

    def loss(images: Tensor) -> Tensor:
        logits = net(images)
        return -targeted_dlr(logits, y, target) if name == "apgd_dlr" else cross_entropy(logits, target)

    assert (loss(x_adv) < loss(x)).float().mean() > 0.95
    away = robustcls.attack(net, x, y, threat, cheap(name, noise=0.1))
    assert loss(x_adv).mean() < loss(away).mean(), "the target makes no difference"


@pytest.mark.parametrize("name", ["apgd_ce", "apgd_dlr", "noise", "pgd", "square"])
@pytest.mark.parametrize("norm", EPS)
def test_success_is_the_target_and_no_other_class(name, norm, trained):
    """Early stopping waits for it."""
    net, x, y = trained
    target = net(x).scatter(1, y[:, None], -torch.inf).topk(2).indices[:, 1]  # the second of the wrong classes
    threat = ThreatModel(norm, {"linf": 0.3, "l2": 2.0, "l1": 6.0}[norm])
    spec = cheap(name, steps=20)
    aimed, free = (
        (net(robustcls.attack(net, x, y, threat, spec, **given)).argmax(1) == target).float().mean()
        for given in ({"target": target}, {})
    )
    assert aimed > free or (name == "noise" and aimed >= free)
    if traits(name).gradients:
        assert aimed > 0.4


@pytest.mark.parametrize("name", ["pgd", "apgd_ce", "apgd_dlr", "square", "noise"])
def test_a_sample_that_is_the_target_is_done(name, trained):
    """At the first look, wherever it is."""
    net, x, y = trained
    attack = plugins.load("attack", cheap(name))
    wrong = (y + 1) % 10
    x_adv = attack(net, x, wrong, threat_of(name, "linf"), target=y, generator=seeded())
    assert (net(x_adv).argmax(1) == y).float().mean() > 0.7


def test_the_goals_agree_on_two_classes():
    """Away from the one is towards the other, ties apart."""
    logits, y = torch.randn(50, 2, generator=seeded()), torch.arange(50) % 2
    logits[0], logits[1] = 1.0, torch.nan
    away, towards = Goal.of(y, None), Goal.of(y, 1 - y)
    assert torch.equal(away.reached(logits[2:], y[2:]), towards.reached(logits[2:], 1 - y[2:]))
    torch.testing.assert_close(away.closeness(logits[2:], y[2:]), towards.closeness(logits[2:], 1 - y[2:]))
    assert not away.reached(logits[:1], y[:1])
    assert not towards.reached(logits[:1], 1 - y[:1])
    assert away.reached(logits[1:2], y[1:2]), "no class is a wrong answer"
    assert not towards.reached(logits[1:2], 1 - y[1:2]), "and no target"


@pytest.mark.parametrize("target", [torch.zeros(3).long(), torch.zeros(40)])
def test_a_target_that_is_no_class_for_each_image_is_refused(target, trained):
    net, x, y = trained
    with pytest.raises(InputError, match="give a class for each image"):
        plugins.load("attack", "pgd")(net, x, y, ThreatModel("linf", 0.1), target=target)
