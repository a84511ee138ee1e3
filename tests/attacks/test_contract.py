"""Properties that hold for every attack plug-in, in every norm."""

import copy
import logging
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustcls
from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, margin
from robustcls.core.threat import ThreatModel
from tests.helpers.attack_contract import (
    ATTACKS,
    EPS,
    EVERY_EPS,
    cheap,
    images,
    norms_of,
    refuses_norm,
    right_labels,
    threat_of,
    traits,
)
from tests.helpers.attack_nets import linear
from tests.helpers.eval_models import make_net

RANDOM = [  # the attacks of the package that draw random numbers
    "apgd_ce", "apgd_dlr", "apgd_t", "boundary", "hopskipjump", "interpretation", "noise", "patch", "pgd", "salt_and_pepper",
    "spatial", "square",
]  # fmt: skip
GREYING = {"blur", "contrast"}  # find nothing near grey, nor if grey has the same class
RESISTED = GREYING | {"patch", "spatial"}  # attacks that a linear model resists on images near grey
LINEAR_BOX = 0.45  # images of the linear models lie this far from the box


def attacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, name: str, **options) -> Tensor:
    """Skip a norm only if the attack refuses it with the expected message."""
    try:
        return robustcls.attack(model, x, y, threat, cheap(name), **options)
    except InputError as refusal:
        if not refuses_norm(refusal, threat.norm):
            raise
        pytest.skip(str(refusal))


def norm_of_each(delta: Tensor, norm: str) -> Tensor:
    order = {"linf": float("inf"), "l2": 2, "l1": 1, "l0": 0}[norm]
    return torch.linalg.vector_norm(delta.double().flatten(1), ord=order, dim=1)


def draws(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, name: str) -> bool:
    """Whether the attack, without a generator, depends on the state of torch's global generator."""
    attack, found = plugins.load("attack", cheap(name)), []
    for seed in (3, 4):
        torch.manual_seed(seed)
        found.append(attack(model, x, y, threat))
    return not torch.equal(*found)


BREAKING = [name for name in ATTACKS if not traits(name).keeps_label]
every_attack = pytest.mark.parametrize("name", ATTACKS)
every_breaking_attack = pytest.mark.parametrize("name", BREAKING)
every_attack_and_norm = pytest.mark.parametrize(
    ("name", "norm"),
    [(name, norm) for name in ATTACKS for norm in EVERY_EPS if norm == "linf" or not traits(name).unrestricted],
)


@every_attack
def test_every_attack_takes_a_norm(name):
    """This ensures that the tests below are not all skipped."""
    assert norms_of(name)


@every_attack_and_norm
def test_the_result_is_inside_and_the_inputs_are_untouched(name, norm):
    model, x, threat = make_net(), images(), threat_of(name, norm)
    x[0], x[1] = 0, 1  # the corners of the box
    y = right_labels(model, x)
    pixels, labels = x.clone(), y.clone()
    x_adv = attacked(model, x, y, threat, name)
    if traits(name).minimum_norm:
        assert ((right_labels(model, x_adv) != y) | (x_adv == x).flatten(1).all(1)).all()
    else:
        assert norm_of_each(x_adv - x, norm).max() <= threat.eps + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert x_adv.shape == x.shape
    assert x_adv.dtype == torch.float32
    assert not x_adv.requires_grad
    assert torch.equal(x, pixels)
    assert torch.equal(y, labels)
    assert torch.equal(x_adv, x) == (name in GREYING)


@every_attack
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_bit_for_bit(name, training):
    model, x = make_net(), images()
    y = right_labels(model, x)
    threat = threat_of(name)
    expected = robustcls.attack(copy.deepcopy(model), x, y, threat, cheap(name))
    model.train(training)
    model.body[1].train(not training)  # submodules may be in different modes
    model.body[0].weight.requires_grad_(False)
    model(x).sum().backward()
    model.body[1].load_state_dict(make_net().body[1].state_dict())
    before = copy.deepcopy(model)
    grads = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    handlers = list(logging.root.handlers)

    found = robustcls.attack(model, x, y, threat, cheap(name))

    assert torch.equal(found, expected), "the mode of the module must not matter"
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == generators[1:]
    assert logging.root.handlers == handlers
    for (key, old), (_, new) in zip(before.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.equal(old, new), key
    for old, new in zip(before.modules(), model.modules(), strict=True):
        assert old.training == new.training
        assert not new._forward_hooks
    for (key, old), (_, new) in zip(before.named_parameters(), model.named_parameters(), strict=True):
        assert old.requires_grad == new.requires_grad, key
        assert (new.grad is None) == (key not in grads)
        assert new.grad is None or torch.equal(new.grad, grads[key])


@every_attack_and_norm
def test_same_seed_same_result(name, norm):
    model, x, threat = make_net(), images(), threat_of(name, norm)
    y = right_labels(model, x)
    first, again, other = (attacked(model, x, y, threat, name, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.equal(first, other) != draws(model, x, y, threat, name)


@pytest.mark.parametrize("name", RANDOM)
def test_what_draws_gives_something_else_for_another_seed(name):
    model, x, threat = make_net(), images(), threat_of(name)
    y = right_labels(model, x)
    found, other = (robustcls.attack(model, x, y, threat, cheap(name), seed=seed) for seed in (3, 4))
    assert not torch.equal(found, other)


@every_attack_and_norm
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_the_loss_on_a_linear_model_is_not_lower(name, norm, num_classes):
    """This also holds with two and three classes, where losses that are ratios of logits degenerate."""
    model, threat = linear(num_classes, 48), threat_of(name, norm, 1 / 2)
    x = 0.5 + (images(16, 4) - 0.5) * (1 - 2 * LINEAR_BOX)
    y = right_labels(model, x)
    x_adv = attacked(model, x, y, threat, name)
    if traits(name).keeps_label:
        assert torch.equal(right_labels(model, x_adv), y)
        return
    with torch.no_grad():
        gain = margin(model(x_adv), y) - margin(model(x), y)
    if traits(name).minimum_norm or (traits(name).gradients and not traits(name).unrestricted):
        assert gain.min() >= -1e-6
    assert gain.mean() > 1e-3 or name in RESISTED


@every_attack_and_norm
def test_no_radius_no_change(name, norm):
    """Minimum-norm attacks ignore the radius; unrestricted attacks are refused, with the threat model that they need."""
    model, x = make_net(), images()
    y = right_labels(model, x)
    if traits(name).unrestricted:
        with pytest.raises(InputError, match="judge it with `norm=linf` and `eps=1`"):
            robustcls.attack(model, x, y, ThreatModel(norm, 0), cheap(name))
        return
    x_adv = attacked(model, x, y, ThreatModel(norm, 0), name)
    expected = attacked(model, x, y, threat_of(name, norm), name) if traits(name).minimum_norm else x
    assert torch.equal(x_adv, expected)


@every_attack
@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("n", [1, 5])
def test_few_classes_and_small_batches(name, num_classes, n):
    model, x = make_net(num_classes), images(n)
    y = right_labels(model, x)
    threat = threat_of(name)
    x_adv = robustcls.attack(model, x, y, threat, cheap(name), batch_size=2)
    assert x_adv.shape == x.shape
    assert traits(name).minimum_norm or norm_of_each(x_adv - x, threat.norm).max() <= threat.eps + 1e-6
    with torch.no_grad():
        worse = margin(model(x_adv), y).mean() > margin(model(x), y).mean()
    assert worse or name in GREYING or traits(name).keeps_label


@every_breaking_attack
def test_samples_that_are_wrong_already_do_no_harm(name):
    model, x = make_net(), images()
    wrong = (right_labels(model, x) + 1) % 4
    threat = threat_of(name)
    x_adv = robustcls.attack(model, x, wrong, threat, cheap(name))
    assert norm_of_each(x_adv - x, threat.norm).max() <= (0 if traits(name).minimum_norm else threat.eps + 1e-6)
    with torch.no_grad():
        assert (model(x_adv).argmax(1) != wrong).all()


@every_attack
def test_gradients_switched_off_outside_do_not_matter(name):
    model, x, threat = make_net(), images(), threat_of(name)
    y = right_labels(model, x)
    expected = robustcls.attack(model, x, y, threat, cheap(name))
    with torch.no_grad():
        assert torch.equal(robustcls.attack(model, x, y, threat, cheap(name)), expected)
    with torch.inference_mode():
        found = robustcls.attack(model, x * 1, y * 1, threat, cheap(name))
    assert torch.equal(found, expected)
    assert not found.is_inference()


@every_attack
def test_other_precisions_and_models_that_write_on_their_input(name):
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear(3, 192)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.sub_(0.5).mul_(2))

    model, x, threat = Normalising(), images(), threat_of(name, share=1 / 2)
    pixels = x.clone()
    y = right_labels(model, x.clone())
    single = robustcls.attack(model, x, y, threat, cheap(name))
    double = robustcls.attack(copy.deepcopy(model).double(), x.double().requires_grad_(), y.int(), threat, cheap(name))
    assert torch.equal(x, pixels)
    assert double.dtype == torch.float32
    assert not double.requires_grad
    if name == "hopskipjump":  # it walks along the boundary, where rounding decides
        sizes = [norm_of_each(x_adv - x, threat.norm) for x_adv in (double, single)]
        torch.testing.assert_close(*sizes, rtol=0.3, atol=0)
    else:
        torch.testing.assert_close(double, single, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in ATTACKS if not traits(name).gradients])
def test_labels_are_enough_where_no_gradient_is_asked_for(name):
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = linear(3, 192)

        def forward(self, x: Tensor) -> Tensor:
            assert not x.requires_grad
            return self.net((8 * x).round() / 8 - 0.5).detach()

    model, x = Steps(), images(16)
    y = right_labels(model, x)
    x_adv = robustcls.attack(model, x, y, threat_of(name), cheap(name))
    assert (right_labels(model, x_adv) != y).any()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
@pytest.mark.parametrize(
    ("spec", "num_classes", "share"),
    [  # with more than two classes, only a targeted attack follows one straight line
        ("fgsm", 2, 1e-4),
        ("pgd(steps=20, random_start=False, early_stop=False)", 2, 1e-4),
        ("pgd(steps=100, restarts=2, early_stop=False)", 2, 0.05),
        ("apgd_ce(steps=50)", 2, 0.01),
        ("apgd_dlr(steps=50)", 2, 0.01),
        ("apgd_t(steps=50)", 2, 0.01),
        ("apgd_t(steps=50)", 3, 0.02),
        ("apgd_t(steps=50)", 5, 0.02),
    ],
)
@torch.no_grad()
def test_a_linear_models_optimum_is_reached(spec, num_classes, share, norm, dual):
    """At the optimum, each other class gains eps times the dual norm of the weight difference; the box is far away."""
    model = linear(num_classes, 48)
    x = 0.5 + (images(64, 4) - 0.5) * (1 - 2 * LINEAR_BOX)
    y = right_labels(model, x)
    weight, logits = model[1].weight, model(x)
    slopes = torch.linalg.vector_norm(weight[None] - weight[y][:, None], ord=dual, dim=2)
    gaps = logits - logits.gather(1, y[:, None])
    others = F.one_hot(y, num_classes) == 0
    eps = (-gaps[others] / slopes[others]).view(64, -1).amin(1).median().item()  # breaks half of them
    assert eps < (LINEAR_BOX if norm == "linf" else 2), "the box would matter"
    best = (gaps + eps * slopes)[others].view(64, -1).amax(1)
    gained = best - gaps[others].view(64, -1).amax(1)

    x_adv = robustcls.attack(model, x, y, ThreatModel(norm, eps), spec)

    assert x_adv.min() > 0
    assert x_adv.max() < 1
    found = margin(model(x_adv), y)
    assert (found <= best + 1e-5).all(), "nothing beats the optimum"
    within = found >= best - share * gained
    if spec.startswith("apgd"):  # it stops at the first misclassified point
        within |= found > 0
    assert within.all()
    assert 16 < (found > 0).sum() < 48


def test_more_steps_and_restarts_do_not_weaken_pgd():
    model, x, threat = make_net(), images(32), ThreatModel("linf", 0.05)
    y = right_labels(model, x)
    specs = [f"pgd({given}, early_stop=False)" for given in ("steps=1", "steps=20", "steps=20, restarts=4")]
    with torch.no_grad():
        gaps = [margin(model(robustcls.attack(model, x, y, threat, spec)), y) for spec in specs]
    assert gaps[1].mean() > gaps[0].mean()
    assert (gaps[2] >= gaps[1] - 1e-6).all(), "the first of four runs is the run alone"
    assert gaps[2].mean() > gaps[1].mean()


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("spec", ["apgd_ce(steps=100)", "apgd_dlr(steps=100)", "apgd_t(steps=100)"])
def test_auto_pgd_finds_an_optimum_inside_the_ball(spec, norm):
    """The loss grows towards a point, and no image fools the model. Steps of constant size jump over the point."""
    x, threat = torch.full((4, 1, 2, 2), 0.5), ThreatModel(norm, EPS[norm])
    goal = threat.project(x + 0.3 * EPS[norm] * torch.tensor([0.3, -0.2, 0.1, 0.25]).view(1, 1, 2, 2), x)

    class Bowl(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            far = (x - goal).flatten(1).pow(2).sum(1)
            return torch.stack([1 + 20 * far, torch.zeros_like(far)], 1)

    x_adv = robustcls.attack(Bowl(), x, torch.zeros(4, dtype=torch.long), threat, spec)
    start, end = (threat.distance(image, goal) for image in (x, x_adv))
    share = 0.25 if norm == "l1" else 0.1  # in l1 steps stay above a tenth of eps
    assert (end < share * start).all(), (start, end)


def test_auto_pgd_keeps_the_best_point_that_it_saw():
    """It does not return the last point: the radius is much larger than the bowl, so the attack jumps to and fro."""
    seen = []

    class Bowl(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            far = (x - 0.503).flatten(1).pow(2).sum(1)
            seen.append(far.detach())
            return torch.stack([1 + far, torch.zeros_like(far)], 1)

    x, threat = torch.full((4, 1, 2, 2), 0.5), ThreatModel("linf", 0.1)
    x_adv = robustcls.attack(Bowl(), x, torch.zeros(4, dtype=torch.long), threat, "apgd_ce(steps=3)")
    seen = torch.stack([far for far in seen if len(far) == len(x)])  # the start and three steps
    torch.testing.assert_close((x_adv - 0.503).flatten(1).pow(2).sum(1), seen.amin(0))
    assert (seen[-1] > seen.amin(0)).any(), "the last point is the best one, so this case proves nothing"


def test_fgsm_is_one_signed_step():
    model, x = make_net(), images()
    y = right_labels(model, x)
    leaf = x.clone().requires_grad_()
    F.cross_entropy(model(leaf), y, reduction="sum").backward()
    expected = (x + 0.03 * leaf.grad.sign()).clamp(0, 1)
    found = robustcls.attack(model, x, y, ThreatModel("linf", 0.03), "fgsm")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_loss_can_be_handed_in():
    model, x, threat = make_net(), images(), ThreatModel("linf", 0.03)
    y = right_labels(model, x)
    pgd = plugins.load("attack", "pgd(steps=3, random_start=False, early_stop=False)")
    backwards = pgd(model, x, y, threat, loss=lambda logits, labels: -cross_entropy(logits, labels))
    with torch.no_grad():
        assert (cross_entropy(model(backwards), y) < cross_entropy(model(x), y)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": "pdg"}, "did you mean 'pgd'"),
        ({"attack": "pgd(steps=0)"}, "give 1 or more"),
        ({"attack": "pgd(restarts=0)"}, "give 1 or more"),
        ({"attack": "apgd_ce(steps=0)"}, "give 1 or more"),
        ({"attack": "apgd_t(targets=0)"}, "give 1 or more"),
        ({"images": images() * 255}, "not in [0, 1]"),
        ({"images": (images() * 255).byte()}, "torch.uint8"),
        ({"labels": torch.tensor([0, 1, 2, 3, 4, 0])}, "beyond the model's 4 classes"),
        ({"labels": [0, 1, 2, 3, 0, 1]}, "labels are list"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -3}, "batch_size"),
        ({"model": nn.Flatten(0)}, "must give logits N,K"),
    ],
)
def test_wrong_input_is_named_in_one_line(changes, message):
    arguments = {"model": make_net(), "images": images(), "labels": torch.zeros(6, dtype=torch.long), "attack": "fgsm"}
    with pytest.raises(InputError) as caught:
        robustcls.attack(**(arguments | changes), threat=ThreatModel("linf", 0.1))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_attack_and_norm
def test_a_model_on_the_gpu(name, norm):
    model, x, threat = make_net(), images(), threat_of(name, norm)
    y = right_labels(model, x)
    x_adv = attacked(model.cuda(), x, y, threat, name)
    assert x_adv.device.type == "cpu"
    assert traits(name).minimum_norm or threat.distance(x_adv, x).max() <= threat.eps + 1e-6
    with torch.no_grad():
        gained = margin(model(x_adv.cuda()).cpu(), y).mean() > margin(model(x.cuda()).cpu(), y).mean()
    assert gained or name in GREYING or traits(name).keeps_label
