"""Targeted attacks: the closed form on linear models, and the direction of the loss."""

import foolbox as fb
import numpy as np
import pytest
import torch
from scipy.optimize import linprog, nnls
from torch import Tensor, nn

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
GRADIENT = [name for name in AIMING if traits(name).gradients and not traits(name).minimum_norm]


@pytest.fixture(scope="module")
def trained():
    return trained_on_digits(40)


def test_the_signature_says_which_attacks_can_aim():
    """The option `target` of `patch` and `contrast` is a number and does not count."""
    assert {"apgd_ce", "apgd_dlr", "fgsm", "n_fgsm", "noise", "pgd", "square"} <= set(AIMING)
    foolbox = {"blur", "boundary", "cw", "ddn", "ead", "fmn", "hopskipjump", "salt_and_pepper", "spatial"}
    assert foolbox <= set(AIMING), "foolbox's versions of these attacks are targeted, too"
    assert not {"apgd_t", "contrast", "deepfool", "fab_t", "malt", "patch"} & set(AIMING)
    assert "target" in plugins.resolved("attack", "patch")
    assert not any("target" in plugins.resolved("attack", name) for name in AIMING)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize(
    "spec", ["fgsm", "pgd(steps=50)", "pgd(steps=50, early_stop=False)", "apgd_ce(steps=50)", "apgd_dlr(steps=50)"]
)
def test_with_two_classes_the_target_is_reached_where_the_optimum_reaches_it(spec, norm, dual):
    """The gap to the target closes by eps times the dual norm of the weight difference; the box is far away."""
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
    """Early stopping waits until the target is reached."""
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
    """The attack accepts the clean image or a point near it, although it is far from the given label."""
    net, x, y = trained
    attack = plugins.load("attack", cheap(name))
    wrong = (y + 1) % 10
    x_adv = attack(net, x, wrong, threat_of(name, "linf"), target=y, generator=seeded())
    assert (net(x_adv).argmax(1) == y).float().mean() > 0.7


def test_the_goals_agree_on_two_classes():
    """With two classes, untargeted and targeted attacks have the same goal, except for ties."""
    logits, y = torch.randn(50, 2, generator=seeded()), torch.arange(50) % 2
    logits[0], logits[1] = 1.0, torch.nan
    away, towards = Goal.of(y, None), Goal.of(y, 1 - y)
    assert torch.equal(away.reached(logits[2:], y[2:]), towards.reached(logits[2:], 1 - y[2:]))
    torch.testing.assert_close(away.closeness(logits[2:], y[2:]), towards.closeness(logits[2:], 1 - y[2:]))
    assert not away.reached(logits[:1], y[:1])
    assert not towards.reached(logits[:1], 1 - y[:1])
    assert away.reached(logits[1:2], y[1:2]), "a NaN output predicts no class, which counts as an error"
    assert not towards.reached(logits[1:2], 1 - y[1:2]), "a NaN output does not reach the target"


@pytest.mark.parametrize("target", [torch.zeros(3).long(), torch.zeros(40)])
def test_a_target_that_is_no_class_for_each_image_is_refused(target, trained):
    net, x, y = trained
    with pytest.raises(InputError, match="give a class for each image"):
        plugins.load("attack", "pgd")(net, x, y, ThreatModel("linf", 0.1), target=target)


def near_grey(n: int = 12, size: int = 4) -> Tensor:
    return 0.45 + 0.1 * torch.rand(n, 3, size, size, generator=seeded(1))


def distance_to(target: Tensor, model: nn.Sequential, x: Tensor, norm: str) -> Tensor:
    """Return the distance from each image to the nearest point where a linear model predicts the target (N), by a linear
    programme in linf and a quadratic one in l2."""
    weight, logits, nearest = model[1].weight.double(), model(x).double(), []
    for row, aim in enumerate(target.tolist()):
        other = [k for k in range(len(weight)) if k != aim]
        a = (weight[aim] - weight[other]).numpy()  # the target has the largest logit where a delta >= b
        b = (logits[row, other] - logits[row, aim]).numpy()
        size = a.shape[1]
        if norm == "l2":  # the nearest point of a polyhedron: its dual is a non-negative least-squares problem
            rows, last = np.vstack([a.T, b]), np.append(np.zeros(size), 1)
            rest = last - rows @ nnls(rows, last)[0]
            nearest.append(np.linalg.norm(rest[:-1] / rest[-1]))
        else:
            one, leads = np.ones((size, 1)), np.hstack([-a, np.zeros((len(a), 1))])
            inside = np.vstack([np.hstack([np.eye(size), -one]), np.hstack([-np.eye(size), -one])])
            bounds, limits = [*[(None, None)] * size, (0, None)], np.append(-b, np.zeros(2 * size))
            nearest.append(linprog([*[0] * size, 1], np.vstack([leads, inside]), limits, bounds=bounds).fun)
    return torch.tensor(nearest)


@pytest.mark.parametrize(
    ("spec", "least"),
    # With logits of about 1, the gradient of cross-entropy also contains the gradients of the other classes.
    [("pgd(steps=50)", 0.2), ("apgd_ce(steps=50)", 0.3), ("apgd_dlr(steps=50)", 1), ("square(queries=500)", 1)],
)
def test_targets_are_reached_where_a_linear_programme_says_that_they_can(spec, least):
    model, x = linear(4, 3, 4, 4), near_grey(40)
    y = model(x).argmax(1)
    target = (y + 1 + torch.arange(40) % 3) % 4
    distance = distance_to(target, model, x, "linf")
    eps = distance.quantile(0.9).item()
    assert eps < 0.4, "the box would matter"
    x_adv = robustcls.attack(model, x, y, ThreatModel("linf", eps), spec, target=target)
    reached = model(x_adv).argmax(1) == target
    assert not reached[distance > 1.001 * eps].any(), "nothing beats the optimum"
    assert (distance < 0.94 * eps).sum() > 20
    assert reached[distance < 0.94 * eps].float().mean() >= least


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "norm", "most"),
    [("fmn", "linf", 1.02), ("fmn", "l2", 1.02), ("cw", "l2", 1.05), ("hopskipjump(steps=20)", "l2", 1.5)],
)
def test_the_distance_to_the_target_of_a_linear_model(spec, norm, most):
    model, x = linear(4, 3, 4, 4), near_grey()
    y, target = model(x).argmax(1), model(x).argmin(1)
    x_adv = robustcls.attack(model, x, y, ThreatModel(norm, 0.01), spec, target=target)
    assert (model(x_adv).argmax(1) == target).all()
    share = ThreatModel(norm, 0.01).distance(x_adv, x) / distance_to(target, model, x, norm)
    assert share.min() > 1 - 1e-3, "nothing beats the optimum"
    assert share.max() < most


@pytest.mark.parametrize(
    ("spec", "norm", "kind", "options"),
    [
        ("fmn", "linf", "LInfFMNAttack", {}),
        ("ddn", "l2", "DDNAttack", {}),
        (
            "cw(steps=100, binary_search_steps=3, initial_const=1.0)", "l2", "L2CarliniWagnerAttack",
            {"steps": 100, "binary_search_steps": 3, "initial_const": 1.0, "stepsize": 0.05, "abort_early": False},
        ),
    ],
)  # fmt: skip
def test_the_distances_to_a_target_are_foolboxs(trained, spec, norm, kind, options):
    net, x, y = trained
    target = (y + 3) % 10
    attack = getattr(fb.attacks, kind)(**options)
    criterion = fb.criteria.TargetedMisclassification(target)
    theirs = attack(fb.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, criterion, epsilons=None)[0]
    ours = robustcls.attack(net, x, y, ThreatModel(norm, 0.1), spec, target=target)
    found, expected = (ThreatModel(norm, 0.1).distance(x_adv, x) for x_adv in (ours, theirs))
    assert (net(ours).argmax(1) == target).all()
    assert (found / expected).median() == pytest.approx(1, abs=5e-3)
    assert (found / expected).log().mean() < 0.01


@pytest.mark.parametrize("name", ["blur", "boundary", "ead", "hopskipjump", "salt_and_pepper", "spatial"])
def test_what_foolbox_gives_is_the_target_or_the_clean_image(trained, name):
    net, x, y = trained
    target = net(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    x_adv = robustcls.attack(net, x, y, threat_of(name), cheap(name), target=target)
    moved = (x_adv != x).flatten(1).any(1)
    assert (net(x_adv).argmax(1) == target)[moved].all()
    assert moved.float().mean() > (0.9 if name in ("boundary", "ead", "hopskipjump") else 0.02)


def test_the_targets_that_rotations_reach_are_foolboxs(trained):
    net, x, y = trained
    target = net(x).scatter(1, y[:, None], -torch.inf).argmax(1)
    peer = fb.attacks.SpatialAttack(
        max_translation=3, num_translations=5, max_rotation=30, num_rotations=5, grid_search=True
    )
    theirs = peer.run(
        fb.PyTorchModel(net, bounds=(0, 1), device="cpu"), x, fb.criteria.TargetedMisclassification(target)
    )
    ours = robustcls.attack(net, x, y, ThreatModel("linf", 1), "spatial", target=target)
    reached = net(ours).argmax(1) == target
    assert torch.equal(reached, net(theirs).argmax(1) == target)
    assert 0 < reached.sum() < len(y)


def test_what_square_takes_up_is_near_the_target(trained):
    """The option `within` refers to the distance to the target, not to the distance to any error."""
    net, x, y = trained
    ranked = net(x).argsort(1, descending=True)
    start, threat = (x + 0.02).clamp(0, 1), ThreatModel("linf", 0.05)
    attack = plugins.load("attack", "square(queries=20, within=0.9)")
    free = attack(net, x, y, threat, start=start, generator=seeded())
    for place in (1, 9):
        target = ranked[:, place].where(ranked[:, place] != y, ranked[:, 0])
        moved = (attack(net, x, y, threat, start=start, target=target, generator=seeded()) != x).flatten(1).any(1)
        now, clean = targeted_dlr(net(start), y, target), targeted_dlr(net(x), y, target)
        assert not (moved & (now < 0.9 * clean)).any()
    assert (free != x).any()
