"""Values that are not finite: logits, attempts, input gradients."""

from functools import partial

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits
from robustcls.evaluation.checks.finite_gradients import LOOKED
from robustcls.evaluation.measures.calibration.measure import measure as measure_calibration
from robustcls.evaluation.measures.gallery.measure import measure as make_gallery
from robustcls.reporting.render import render
from robustcls.results.comparison import count_classes
from robustcls.results.records import Evaluation
from tests.helpers.eval_models import Masked, evaluated, train_digits

LINF = ThreatModel("linf", 0.1)
STRONG = ["apgd_ce(steps=10)", "apgd_t(steps=10, targets=2)"]


@pytest.fixture(scope="module")
def net():
    return train_digits()


@pytest.fixture(scope="module")
def batch():
    x, y = digits("test", size=8).batch()
    return x[:60], y[:60]


def judged(model, batch, attacks=STRONG, threat=LINF, **options):
    return evaluated(model, *batch, threat, attacks, precision="fp32", **options)


def checks(evaluation):
    return {check.id: check for check in evaluation.checks}


class Silent(nn.Module):
    """A model whose logits are NaN for images with a large mean, because it takes the logarithm of a negative number."""

    def __init__(self, net, level: float) -> None:
        super().__init__()
        self.net, self.level = net, level

    def forward(self, x):
        return self.net(x) + 0 * torch.log(self.level - x.flatten(1).mean(1, keepdim=True))


def test_no_answer_is_a_wrong_answer_for_every_class(net, batch):
    x, y = batch
    level = x.flatten(1).mean(1).median().item()
    model = Silent(net, level)
    silent = model(x).isnan().any(1)
    assert ((y == 0) & silent).any(), "an argmax of NaN would give class 0, so some of these labels must be 0"
    right = int((net(x).argmax(1)[~silent] == y[~silent]).sum())
    result = judged(model, batch)
    found = result.evaluation
    assert found.clean.correct == right
    assert all((sample.clean is None) == bool(nan) for sample, nan in zip(found.samples, silent, strict=True))
    check = checks(found)["finite_output"]
    assert check.status == "fail"
    assert check.message.startswith(f"{int(silent.sum())} clean images and ")
    again = Evaluation.from_json(found.to_json())
    assert again.samples == found.samples
    assert sum(row.clean for row in count_classes(again.samples)) == right
    found.gallery = make_gallery(*result.on(model), methods=["saliency"], n=60, seed=0, batch_size=32)
    assert any(example.clean_top == [] for example in found.gallery.examples)
    found.calibration = measure_calibration(*result.on(model), batch_size=32)
    assert found.calibration.clean.n == len(y) - int(silent.sum())
    assert "no answer" in render([found])


def test_an_attack_that_silences_the_model_has_broken_it(net, batch):
    """Robust accuracy requires the right label everywhere in the ball, and NaN gives no label."""
    x, y = batch
    model = Silent(net, x.flatten(1).mean(1).max().item() + 0.01)
    found = judged(model, (x, y), ["noise(draws=4)", *STRONG]).evaluation
    broken = [sample for sample in found.samples if sample.broken_by and sample.adversarial is None]
    assert broken
    assert found.robust.correct <= judged(net, (x, y), ["noise(draws=4)", *STRONG]).evaluation.robust.correct
    assert f"0 clean images and {len(broken)} attempts" in checks(found)["finite_output"].message


@pytest.mark.parametrize(
    "attack", ["apgd_ce(steps=5)", "pgd(steps=3)", "fab_t(steps=5)", "square(queries=20)", "noise"]
)
def test_masked_classes_are_no_silence(attack, net, batch):
    """Logits of -inf exclude classes; the verdict is that of a model without these classes."""
    x, y = batch
    narrow = Masked(net, after=lambda logits: torch.cat([logits, torch.full_like(logits[:, :3], -torch.inf)], 1))
    found, plain = (judged(model, (x, y), [attack]).evaluation for model in (narrow, net))
    assert checks(found)["finite_output"].status == "pass"
    assert (found.clean.correct, found.robust.correct) == (plain.clean.correct, plain.robust.correct)


def lost(model, x, y, threat, *, every: int = 1, generator=None):
    """Return NaN for one of every `every` images."""
    x_adv = x.clone()
    x_adv[::every] = torch.nan
    return x_adv


@pytest.mark.parametrize(("every", "status"), [(1, "fail"), (30, "warn")])
def test_attempts_of_nan_are_counted(every, status, net, batch):
    found = judged(net, batch, [f"{__name__}:lost(every={every})", "pgd(steps=2)"], batch_size=64).evaluation
    check = checks(found)["finite_attempts"]
    met = found.attacks[0].attacked
    assert check.status == status
    assert check.measured == pytest.approx(-(-met // every) / met)
    assert f"{-(-met // every)} of " in check.message
    assert "lost" in check.message
    assert checks(judged(net, batch).evaluation)["finite_attempts"].status == "pass"


def beyond(model, x, y, threat, *, every: int = 1):
    """Move every nth image by 0.25 beyond the ball, and leave the others unchanged."""
    far = torch.arange(len(x), device=x.device) % every == 0
    return torch.where(far.view(-1, 1, 1, 1), (x + threat.eps + 0.25).clamp(0, 1), x)


@pytest.mark.parametrize(("every", "status"), [(1, "fail"), (30, "warn")])
def test_attempts_outside_the_ball_are_told(every, status, net, batch):
    evaluation = judged(net, batch, [partial(beyond, every=every)], batch_size=64).evaluation
    told, met = checks(evaluation)["attempts_outside"], evaluation.attacks[0].attacked
    assert told.status == status
    assert told.measured == pytest.approx(-(-met // every) / met)
    assert f"{-(-met // every)} of {met} images of beyond lie outside" in told.message
    assert "attempts_outside" not in checks(judged(net, batch).evaluation)
    assert evaluation.robust.correct == evaluation.clean.correct, "nothing outside the ball breaks a sample"


@pytest.mark.parametrize("spec", ["ddn(steps=5)", "fab_t(steps=5, targets=2, early_stop=False)"])
def test_the_nearest_example_may_lie_outside(spec, net, batch):
    evaluation = judged(net, batch, [spec], ThreatModel("l2", 1e-3)).evaluation
    assert evaluation.robust.correct == evaluation.clean.correct
    assert "attempts_outside" not in checks(evaluation)


def broken(model, x, y, threat):
    raise RuntimeError("no such attack today")


def test_an_attack_that_fails_is_warned_of(net, batch):
    with pytest.warns(UserWarning, match="broken failed, and robust accuracy is without it: RuntimeError: no such"):
        evaluation = robustcls.evaluate(net, *batch, LINF, attacks=[broken])
    assert checks(evaluation)["finite_attempts"].message == "no attack ran to the end"


class Pole(torch.autograd.Function):
    """The identity, with a gradient of NaN at black pixels."""

    @staticmethod
    def forward(ctx, x):
        ctx.black = x == 0
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.masked_fill(ctx.black, torch.nan)


def flat(x):
    """Return the image unchanged, but without a gradient at black pixels."""
    return x * (x > 0)


def test_gradients_with_poles_are_counted_and_the_number_is_that_of_the_twin(net, batch):
    model, twin = Masked(net, before=Pole.apply), Masked(net, before=flat)
    for norm, eps in (("linf", 0.1), ("l2", 0.6), ("l1", 2.0)):
        threat = ThreatModel(norm, eps)
        found, expected = (judged(one, batch, threat=threat).evaluation for one in (model, twin))
        assert found.robust.correct == pytest.approx(expected.robust.correct, abs=1)
        assert found.robust.correct < found.clean.correct
        check = checks(found)["finite_gradients"]
        assert check.status in ("warn", "fail")
        assert f"100.0% of {LOOKED} samples" in check.message
        assert checks(expected)["finite_gradients"].status == "pass"


def test_what_the_poles_hide_fails_the_check(net, batch):
    """Black pixels matter for the prediction, but have no gradient that shows it."""
    black = Masked(net, before=lambda x: Pole.apply(x))
    threat = ThreatModel("linf", 0.15)
    found = judged(black, batch, ["pgd(steps=10, random_start=False)"], threat).evaluation
    open_ = judged(net, batch, ["pgd(steps=10, random_start=False)"], threat).evaluation
    assert found.robust.correct > open_.robust.correct + 3
    check = checks(found)["finite_gradients"]
    assert check.status == "fail"
    assert "robust accuracy is overstated" in check.message


class Everywhere(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.full_like(grad, torch.inf)


def test_no_finite_gradient_at_all_fails(net, batch):
    found = judged(Masked(net, before=Everywhere.apply), batch).evaluation
    check = checks(found)["finite_gradients"]
    assert (check.status, check.measured) == ("fail", pytest.approx(1, abs=0.3))
    assert "have no finite gradient but 0" in check.message


class Edge(Pole):
    """A gradient of NaN at white pixels, which only attacks produce."""

    @staticmethod
    def forward(ctx, x):
        ctx.black = x == 1
        return x.clone()


def test_a_pole_that_only_the_attack_reaches_is_seen(net, batch):
    x = batch[0].clamp_max(0.97)
    model = Masked(net, before=Edge.apply)
    found = robustcls.evaluate(model, x, batch[1], LINF, attacks=["pgd(steps=5)"], precision="fp32")
    check = checks(found)["finite_gradients"]
    assert check.status != "pass"
    assert "so had 0 of" not in check.message
    assert (
        checks(robustcls.evaluate(net, x, batch[1], LINF, attacks=["pgd(steps=5)"]))["finite_gradients"].status
        == "pass"
    )
