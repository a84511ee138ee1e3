"""A model with non-finite input gradients is broken like its twin with the same outputs and finite gradients."""

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy, dlr
from robustcls.core.threat import ThreatModel
from robustcls.runtime.fused import FusedModel
from robustcls.training.inner_attack import InnerAttack
from tests.helpers.attack_nets import robust, trained_on_digits

TINY = 1e-8
EPS = {"linf": 0.06, "l2": 0.5, "l1": 1.5}
# Each function as it is usually written, with a pole at black pixels, and then without the pole.
POLES = {
    "root": (lambda x: x.pow(0.5) * (x > 0), lambda x: x.clamp_min(TINY).pow(0.5) * (x > 0)),
    "norm": (
        lambda x: x / (x.square().sum(1, keepdim=True).sqrt() + 0.2),
        lambda x: x * (x > 0) / (x.square().sum(1, keepdim=True).clamp_min(TINY**2).sqrt() + 0.2),
    ),
    "masked infinity": (
        lambda x: torch.where(x > 0, 1 + 0.1 * x.log(), 0.0),
        lambda x: torch.where(x > 0, 1 + 0.1 * x.clamp_min(TINY).log(), 0.0),
    ),
}  # fmt: skip
ATTACKS = (
    "pgd", "pgd(steps=5, random_start=False, momentum=0.9)", "fgsm", "apgd_ce(steps=10)", "apgd_t(steps=10, targets=2)",
    "fab_t(steps=10, targets=2)", "fmn(steps=30)", "deepfool(steps=10)", "ddn(steps=30)", "cw(steps=20, initial_const=1.0)",
    "ead(steps=20, initial_const=1.0)",
)  # fmt: skip


class Seen(nn.Module):
    """A network whose input is changed by a function."""

    def __init__(self, before, net: nn.Module) -> None:
        super().__init__()
        self.before, self.net = before, net

    def forward(self, x):
        return self.net(self.before(x))


@pytest.fixture(scope="module")
def trained():
    net, x, _ = trained_on_digits(40)
    return net, x


@pytest.fixture(scope="module", params=POLES)
def pair(request, trained):
    """Return the model with non-finite gradients, its twin without, and images with the labels that both predict."""
    net, x = trained
    model, twin = (Seen(before, net).eval() for before in POLES[request.param])
    return model, twin, x, twin(x).argmax(1)


def test_the_test_model_has_gradients_that_are_not_finite(pair):
    model, twin, x, y = pair
    torch.testing.assert_close(model(x), twin(x))
    images = x.clone().requires_grad_()
    grad = torch.autograd.grad(nn.functional.cross_entropy(model(images), y), images)[0]
    assert (~grad.isfinite()).flatten(1).any(1).all(), "every image has black pixels"
    for loss in (cross_entropy, dlr):
        torch.testing.assert_close(input_gradient(model, x, y, loss), input_gradient(twin, x, y, loss))


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("spec", ATTACKS)
def test_every_attack_breaks_the_model_as_it_breaks_its_twin(pair, norm, spec):
    model, twin, x, y = pair
    threat = ThreatModel(norm, EPS[norm])
    try:
        found, expected = (robustcls.attack(one, x, y, threat, spec) for one in (model, twin))
    except InputError as refusal:
        if "judge it with `norm=" not in str(refusal):
            raise
        pytest.skip(str(refusal))
    assert found.isfinite().all()
    left = robust(twin, expected, x, y, threat)
    assert left < 1, "nothing was broken that could be compared"
    assert robust(model, found, x, y, threat) == pytest.approx(left, abs=2.5 / len(x))


@pytest.mark.parametrize("norm", EPS)
@pytest.mark.parametrize("spec", ["n_fgsm", "fgsm(random_start=True)", "pgd(steps=3)"])
def test_the_attack_inside_an_objective_is_the_twins(pair, norm, spec):
    """Inside an objective, both models are attacked through `FusedModel`; all values stay finite in low precision, too."""
    model, twin, x, y = pair
    for precision in ("fp32", "bf16"):
        found, expected = (
            InnerAttack(spec, "adversarial", ThreatModel(norm, EPS[norm]))(
                FusedModel(one, precision), x, y, generator=torch.Generator().manual_seed(0)
            )
            for one in (model, twin)
        )
        assert found.isfinite().all()
        assert (found != x).flatten(1).any(1).all()
        if precision == "fp32":
            torch.testing.assert_close(found, expected)


def test_a_patch_learns_from_images_without_a_pole(pair):
    """The gradient of one image must not spoil that of the others."""
    model, twin, x, y = pair
    spec, box = "patch(steps=30, size=0.5)", ThreatModel("linf", 1)
    found, expected = (robust(one, robustcls.attack(one, x, y, box, spec), x, y, box) for one in (model, twin))
    assert found == pytest.approx(expected, abs=0.15)


def test_interpretation_gives_images(pair):
    model, _, x, y = pair
    found = robustcls.attack(model, x, y, ThreatModel("linf", 0.06), "interpretation(steps=3)")
    assert found.isfinite().all()
    assert (model(found).argmax(1) == y).all()
