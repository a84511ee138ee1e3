"""Each check that attacks the model: it detects its fault, and finds nothing in honest models."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustcls.attacks._hyperplane import to_hyperplane
from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits
from robustcls.evaluation.checks import _check, attack_self_test, thorough_checks
from robustcls.evaluation.checks.attack_self_test import linear_model
from robustcls.reporting.sections.diagnostics import EXPECTED
from tests.helpers.eval_models import Bump, Masked, evaluated, train_digits

pytestmark = pytest.mark.whole_checks

LINF = ThreatModel("linf", 0.1)
STRONG = ["apgd_ce(steps=20)", "apgd_t(steps=20, targets=3, restarts=2)"]
NORMS = ("linf", "l2", "l1")
IDS = [check.id for check in thorough_checks()]


@pytest.fixture(scope="module")
def net():
    return train_digits()


@pytest.fixture(scope="module")
def robust_net():
    return train_digits("pgd(steps=3)", epochs=4)


@pytest.fixture(scope="module")
def batch():
    x, y = digits("test", size=8).batch()
    return x[:100], y[:100]


def run(model, x, y, attacks, *names, threat=LINF, **options):
    """Return the results of these checks, or of all, by id."""
    chosen = [check for check in thorough_checks() if not names or check.id in names]
    found = evaluated(model, x, y, threat, attacks, checks=chosen, precision="fp32", **options).evaluation
    return {check.id: check for check in found.checks if check.id in IDS}


def one(model, x, y, attacks, name, **options):
    return run(model, x, y, attacks, name, **options)[name]


def grey(n=40):
    """Return grey images and labels of 0, for a `Bump` model."""
    return torch.full((n, 1, 8, 8), 0.5), torch.zeros(n, dtype=torch.long)


class Purified(nn.Module):
    """A model that moves the image towards higher confidence before it predicts."""

    def __init__(self, net, grad=torch.autograd.grad):
        super().__init__()
        self.net, self.grad = net, grad

    def forward(self, x):
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            grad = self.grad(self.net(moved).logsumexp(1).sum(), moved)[0]
        return self.net((x + 0.02 * grad.sign()).clamp(0, 1))


class Functional(nn.Module):
    """The same with torch.func, which saves no tensors that could be watched."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x + 0.02 * torch.func.grad(lambda x: self.net(x).logsumexp(1).sum())(x).sign())


class Remembering(nn.Module):
    """A model that counts its passes and may keep a running mean of its inputs, which it does not use."""

    def __init__(self, net, keeps):
        super().__init__()
        self.net, self.keeps = net, keeps
        self.register_buffer("expanded", torch.zeros(1).expand(64))  # cannot be written to
        self.register_buffer("passes", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(64))

    def forward(self, x):
        self.passes += 1
        if self.keeps:
            self.mean.lerp_(x.detach().mean(0).flatten(), 0.1)
        return self.net(x)


def test_every_check_is_explained():
    assert [check for check in EXPECTED if check in IDS] == IDS
    assert len(EXPECTED) == 10 + len(IDS)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("which", ["net", "robust_net"])
def test_honest_models_pass_all(which, norm, batch, request):
    radius = {"linf": 0.1, "l2": 0.5, "l1": 1.5}[norm]
    model = request.getfixturevalue(which)
    found = run(model, *batch, [STRONG[0], "apgd_t(steps=20, targets=9)"], threat=ThreatModel(norm, radius))
    assert list(found) == IDS
    assert {name: check.message for name, check in found.items() if check.status != "pass"} == {
        "transfer": "no adversarial examples of another model were tried; give --transfer-from"
    }
    assert all(check.message and "\n" not in check.message for check in found.values())


@pytest.mark.slow
def test_the_same_each_time(net, batch):
    assert run(net, *batch, ["pgd"]) == run(net, *batch, ["pgd"])


@pytest.mark.parametrize("defence", [Purified, Functional])
def test_optimisation_in_the_forward_pass_is_named(defence, net, batch):
    found = one(defence(net), *batch, ["noise"], "inference_optimisation")
    assert found.status == "fail"
    assert "adaptive test-time defence" in found.message


def test_gradients_taken_by_another_name_are_seen(net, batch):
    def backward(loss, x):
        loss.backward(inputs=[x])
        return [x.grad]

    assert one(Purified(net, backward), *batch, ["noise"], "inference_optimisation").status == "fail"


def test_a_model_that_keeps_what_it_saw_is_named(net, batch):
    model = Remembering(net, keeps=True)
    found = one(model, *batch, ["noise"], "inference_optimisation")
    assert found.status == "fail"
    assert "mean changed in a forward pass" in found.message
    assert not model.mean.any(), "the checks leave the model unchanged"
    assert one(Remembering(net, keeps=False), *batch, ["noise"], "inference_optimisation").status == "pass"


def test_a_model_that_records_gradients_and_takes_none_passes(net, batch):
    class Recording(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            with torch.enable_grad():
                return self.net(x)

    assert one(Recording(), *batch, ["fgsm"], "inference_optimisation").status == "pass"


def test_a_step_that_jumps_over_the_trap_is_named():
    """PGD climbs to 0.52, where the gradient turns; a single step of the whole radius lands where the label changes."""
    model = Bump(lambda m: -2 - 10 * (m - 0.52).abs() + 10 * (m > 0.595))
    found = one(model, *grey(), ["pgd"], "single_step_beats_iterative")
    assert found.status == "fail"
    assert "fgsm broke 40 and pgd(steps=10) 0" in found.message
    assert found.measured == 1


def test_examples_lost_in_a_larger_ball_are_named():
    """The label changes only at the edge of the smaller ball; larger steps jump over it."""
    model = Bump(lambda m: -1 + 19 * (m - 0.5) - 5 * (m > 0.5505) + 0.06 * ((m > 0.5495) & (m < 0.5505)))
    found = one(model, *grey(), ["pgd"], "eps_monotone")
    assert found.status == "fail"
    assert "a larger ball cannot hold fewer examples" in found.message


@pytest.mark.parametrize(
    "changes", [{"before": lambda x: x.mul(8).round() / 8}, {"after": lambda logits: 1e6 * logits.softmax(1).round()}]
)
def test_what_stands_at_a_huge_eps_is_named(changes, net, batch):
    found = one(Masked(net, **changes), *batch, ["pgd"], "large_eps")
    assert found.status == "fail"
    assert found.measured > 0.5 > found.threshold
    assert "eps 0.5, where every image may become grey" in found.message


def test_too_few_steps_are_named(net, batch):
    weak = "pgd(steps=2, step_size=0.02, random_start=False)"
    found = one(net, *batch, [weak], "doubled_steps", threat=ThreatModel("linf", 0.2))
    assert found.status == "fail"
    assert "pgd(steps=4, step_size=0.02, random_start=False) broke" in found.message
    assert "run it with more steps" in found.message


def test_luck_of_the_start_is_named():
    """Starts on one side of the image's mean lead to an adversarial example, starts on the other side do not."""
    model = Bump(lambda m: 50 * (m - 0.5).abs() - 3 - 4 * (m < 0.5))
    found = one(model, *grey(60), ["pgd"], "doubled_restarts")
    assert found.status == "fail"
    assert "pgd(restarts=2)" in found.message


@pytest.mark.slow
def test_the_last_attack_with_the_option_is_repeated(net, batch):
    found = run(net, *batch, ["pgd(steps=3)", "apgd_ce(steps=4)", "fgsm"], "doubled_steps", "doubled_restarts")
    assert "apgd_ce(steps=8)" in found["doubled_steps"].message
    assert "apgd_ce(steps=4, restarts=2)" in found["doubled_restarts"].message
    found = run(net, *batch, ["pgd(steps=9)", "pgd(steps=1, step_size=0.01)"], "doubled_steps", alone=True)
    assert "pgd(steps=18)" in found["doubled_steps"].message, "with `alone`, the stronger attack is repeated"
    found = run(net, *batch, ["fgsm"], "doubled_steps", "doubled_restarts")
    assert {check.status for check in found.values()} == {"not_run"}
    assert "has the option steps" in found["doubled_steps"].message


def test_noise_of_the_model_breaks_at_eps_zero(net, batch):
    model = Masked(net, after=lambda logits: logits + 20 * torch.randn_like(logits))
    found = one(model, *batch, ["pgd"], "eps_zero")
    assert found.status == "fail"
    assert "make it deterministic" in found.message


def test_noise_that_beats_gradients_is_named():
    """Half of all random points change the label, but no gradient shows it."""
    model = Bump(lambda pixel: 2 * (pixel > 0.5).float() - 1, pixel=True)
    found = one(model, *grey(), ["pgd(random_start=False)"], "noise_baseline")
    assert found.status == "fail"
    assert found.measured > 0.9


@pytest.mark.parametrize("alone", [True, False])
def test_noise_meets_what_gradients_left(alone):
    """It also meets samples that an attack without gradients broke after the gradient attacks."""
    model = Bump(lambda pixel: 2 * (pixel > 0.5).float() - 1, pixel=True)
    attacks = ["pgd(random_start=False)", "noise(draws=20)"]
    assert one(model, *grey(), attacks, "noise_baseline", alone=alone).status == "fail"


def test_transfer_that_beats_a_white_box_is_named(net, robust_net, batch):
    masked = Masked(net, before=lambda x: x.mul(8).round() / 8)
    threat = ThreatModel("linf", 0.2)
    found = one(masked, *batch, STRONG[:1], "transfer", threat=threat, surrogate=net)
    assert found.status == "fail"
    assert "gradients of this model are masked" in found.message
    assert one(net, *batch, STRONG[:1], "transfer", threat=threat, surrogate=robust_net).status == "pass"


def test_gradients_of_a_surrogate_say_nothing(net, robust_net, batch):
    found = run(net, *batch, ["pgd"], surrogate=robust_net)
    compared = {"single_step_beats_iterative", "doubled_steps", "doubled_restarts", "eps_monotone", "large_eps"}
    not_run = {name for name, check in found.items() if check.status == "not_run"}
    assert not_run == compared | {"noise_baseline", "doubled_targets"}


@pytest.mark.parametrize("suite", ["fast", "fast(version=1)", "standard", "verdict", "targeted"])
@pytest.mark.parametrize("norm", NORMS)
def test_every_suite_passes_the_self_test(suite, norm, net, batch, monkeypatch):
    """This includes attacks that leave out samples which others left far from the boundary, or classes which others aimed at.

    At so large a radius all samples of the net break at once, but the self-test uses the radius of its own linear model.
    """
    monkeypatch.setattr(attack_self_test, "TRIED", 4)
    x, y = batch
    radius = {"linf": 0.4, "l2": 3.0, "l1": 10.0}[norm]
    found = one(net, x[:4], y[:4], [suite], "attack_self_test", threat=ThreatModel(norm, radius))
    assert found.status == "pass", found


@pytest.mark.parametrize("name", ["idle", "downhill"])
def test_a_broken_attack_is_named(name, net, batch):
    found = one(net, *batch, [f"tests.helpers.eval_models:{name}", "pgd"], "attack_self_test")
    assert found.status == "fail"
    assert f"tests.helpers.eval_models:{name} broke 0.0%" in found.message
    assert "pgd broke" not in found.message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("norm", "spec"),
    [("linf", "fmn"), ("linf", "deepfool"), ("l2", "cw"), ("l2", "ddn"), ("l2", "fmn"), ("l2", "deepfool"), ("l1", "ead"),
     ("l1", "fmn")],
)  # fmt: skip
def test_minimum_norm_attacks_pass_the_self_test_on_colour_images(norm, spec, monkeypatch):
    monkeypatch.setattr(attack_self_test, "TRIED", 4)
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval(), torch.rand(2, 3, 32, 32)
    found = one(model, x, model(x).argmax(1), [spec], "attack_self_test", threat=ThreatModel(norm, 0.01))
    assert (found.status, found.measured) == ("pass", 1), found


def test_a_minimum_norm_attack_of_too_few_steps_is_named(net, batch):
    x, y = batch
    found = one(net, x[:4], y[:4], ["fmn(steps=1)"], "attack_self_test", threat=ThreatModel("l2", 0.5))
    assert found.status == "fail"


@pytest.mark.parametrize("spec", ["noise", "blur(steps=2)", "contrast(steps=2)", "salt_and_pepper(steps=2)"])
def test_baselines_are_not_tried_on_the_linear_model(spec, net, batch):
    x, y = batch
    found = one(net, x[:4], y[:4], [spec], "attack_self_test", threat=ThreatModel("l2", 0.5))
    assert (found.status, found.message) == (
        "not_run", f"no attack can be tried on a linear model: {spec.partition('(')[0]}"
    )  # fmt: skip


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 224, 224)])
def test_the_linear_model_can_be_broken_just_where_it_says(norm, shape):
    threat = ThreatModel(norm, 1)
    model, x, y, needed = linear_model(shape, 10, threat, 0)
    assert (model(x).argmax(1) == y).all()
    assert set(y.tolist()) == {0, 1}
    assert 0 <= x.min() <= x.max() <= 1
    w = model[1].weight[1] - model[1].weight[0]
    # The most that a ball of this radius can gain, by the dual norm. The box reduces it if pixels move far.
    gain = needed * {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm].item()
    assert gain >= 1 - 1e-3
    assert norm == "l1" or gain == pytest.approx(1, abs=1e-3)
    beyond = 0.5 * w.sum() + 0.01 * (1 - 2 * y.float())
    x_adv = (x.flatten(1) + to_hyperplane(norm, x.flatten(1), w.expand(len(x), -1), beyond)).view_as(x)
    assert (model(x_adv).argmax(1) != y).all()
    assert threat.distance(x_adv, x).max() <= 1.03 * needed


@pytest.mark.parametrize("spec", [
    "fgsm", "pgd", "apgd_ce(steps=20)", "apgd_dlr(steps=20)", "apgd_t(steps=20, targets=3)", "fab_t(steps=10)",
    "square(queries=2)",
])  # fmt: skip
@pytest.mark.parametrize(
    "norm", ["linf", *(pytest.param(norm, marks=pytest.mark.slow) for norm in NORMS if norm != "linf")]
)
def test_our_attacks_pass_the_self_test(spec, norm, net, batch):
    x, y = batch
    found = one(net, x[:4], y[:4], [spec], "attack_self_test", threat=ThreatModel(norm, 0.01))
    assert (found.status, found.measured) == ("pass", 1), found


def test_in_l0_sigma_zero_passes_the_self_test_and_what_does_not_know_l0_is_left_out(net, batch):
    x, y = batch
    found = run(net, x[:20], y[:20], ["sigma_zero(steps=60)"], threat=ThreatModel("l0", 2))
    assert (found["attack_self_test"].status, found["attack_self_test"].measured) == ("pass", 1), found
    assert found["noise_baseline"].status == "not_run"
    assert found["noise_baseline"].message == "noise does not know l0, so there is nothing to compare"
    assert not [check for check in found.values() if check.status == "fail"]
    assert not [check for check in found.values() if "failed" in check.message]


def test_where_checks_mean_nothing(net, batch):
    x, y = batch
    blind = Masked(net)
    blind.differentiable = False
    found = run(blind, x, y, ["square(queries=5)"])
    ran = {name for name, check in found.items() if check.status != "not_run"}
    assert ran == {"eps_zero", "attack_self_test"}
    found = run(net, x[:20], y[:20], ["patch(steps=2)"], threat=ThreatModel("linf", 1))
    assert {name for name, check in found.items() if check.status != "not_run"} == {"inference_optimisation"}
    assert all(check.message for check in found.values())
    nothing_right = run(net, x, (y + 1) % 10, ["pgd"])
    ran = {name for name, check in nothing_right.items() if check.status != "not_run"}
    assert ran == {"inference_optimisation", "attack_self_test"}
    assert "no clean image right" in nothing_right["doubled_steps"].message
    assert "no clean image right" in nothing_right["noise_baseline"].message
    at_zero = run(net, x, y, ["pgd"], threat=ThreatModel("linf", 0))
    passed = {name for name, check in at_zero.items() if check.status == "pass"}
    assert passed == {"inference_optimisation", "eps_zero", "attack_self_test"}
    assert {check.status for check in at_zero.values()} == {"pass", "not_run"}


def test_examples_of_another_model_that_break_nothing_say_nothing(net, robust_net, batch):
    found = one(net, *batch, ["tests.helpers.eval_models:idle"], "transfer", surrogate=robust_net)
    assert found.status == "not_run"
    assert "broke nothing" in found.message


def test_what_is_right_at_grey_may_stand_at_a_huge_eps():
    """In a ball that reaches from bright images to grey, dark images cannot become as bright as 0.7."""
    model = Bump(lambda m: 20 * (m - 0.7))
    x = torch.cat([torch.full((30, 1, 8, 8), 0.2), torch.full((10, 1, 8, 8), 0.9)])
    y = torch.tensor([0] * 30 + [1] * 10)
    found = one(model, x, y, ["pgd"], "large_eps")
    assert (found.status, found.measured) == ("pass", 0.75)
    assert found.threshold == pytest.approx(0.75 + 2 * math.sqrt(0.75 * 0.25 / 40))
    found = one(model, x[:30], y[:30], ["pgd"], "large_eps")
    assert found.status == "not_run"
    assert "100.0% have the label that the model gives grey" in found.message


def test_what_breaks_a_check_is_its_message():
    def broken(kind):
        def some_check(*_):
            raise kind("two\nlines")

        return _check.check(0, thorough=True)(some_check)(SimpleNamespace(over=lambda: ""), None)

    found = broken(ZeroDivisionError)
    assert (found.id, found.status) == ("some_check", "not_run")
    assert found.message == "this check failed: ZeroDivisionError: two"
    with pytest.raises(KeyboardInterrupt):
        broken(KeyboardInterrupt)


def test_attacks_that_break_off_are_reported(net, batch):
    found = run(net, *batch, ["tests.helpers.eval_models:raises"])
    assert "RuntimeError: two" in found["eps_zero"].message
    assert {found[name].status for name in ("eps_zero", "attack_self_test", "doubled_steps")} == {"not_run"}


@pytest.mark.parametrize(
    "spec",
    [
        "tests.helpers.eval_models:far",
        "tests.helpers.eval_models:not_a_number",
        "tests.helpers.eval_models:returns_one",
    ],
)
def test_strange_attacks_crash_no_check(spec, net, batch):
    found = run(net, *batch, [spec])
    assert list(found) == IDS
    assert found["eps_zero"].status in ("pass", "not_run")


def test_few_samples_are_spread_evenly_and_counted(net, batch, monkeypatch):
    monkeypatch.setattr(_check, "SAMPLES", 10)
    assert one(net, *batch, ["pgd"], "eps_monotone").message.startswith("of 10 samples")


@pytest.mark.slow
def test_chance_has_room_for_few_samples(net, batch):
    x, y = batch
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    other = (y != net(torch.full_like(x[:1], 0.5)).argmax(1)).nonzero().squeeze(1)
    for rows in (other[:4], other):  # without the class of grey, chance is that of a guess
        threshold = one(net, x[rows], y[rows], ["fgsm"], "large_eps").threshold
        assert threshold == pytest.approx(0.1 + 2 * math.sqrt(0.1 * 0.9 / len(rows)))
