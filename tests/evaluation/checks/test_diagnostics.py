import json
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits
from robustcls.evaluation.cascade import run_cascade
from robustcls.evaluation.checks import _check, all_checks
from robustcls.evaluation.checks.black_box_wins import black_box_wins
from robustcls.evaluation.engine import Engine
from robustcls.evaluation.subject import Subject
from robustcls.reporting.sections.diagnostics import EXPECTED
from robustcls.runtime.memory import OomSafeBatches
from tests.helpers.eval_models import Masked, evaluated, make_batch, make_engine, make_net, train_digits

pytestmark = pytest.mark.whole_checks

LINF = ThreatModel("linf", 0.15)
IDS = {"zero_gradients", "softmax_output", "random_output", "normalised_twice", "device"}
STRONG = ["apgd_ce(steps=20)", "apgd_t(steps=20, targets=3)"]


def quantise(x):
    return (x * 16).round() / 16


def fixed_noise(x):
    return x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))


MASKS = {
    "softmax_output": {"after": lambda logits: logits.softmax(1)},
    "random_output": {"before": lambda x: x + 0.05 * torch.randn_like(x)},
    "zero_gradients": {"before": quantise},
}


@pytest.fixture(scope="module")
def net():
    return train_digits()


@pytest.fixture(scope="module")
def batch():
    x, y = digits("test", size=8).batch()
    return x[:100], y[:100]


def run_checks(model, x, y, *, parts=None, images_were_on=None):
    """Return the results of the checks that need no attack, in order. The model must be frozen."""
    subject = Subject(model, x, y, LINF, None, None, torch.arange(len(x)), images_were_on=images_were_on)
    engine = Engine(subject, len(x))
    engine.parts = parts or engine.parts
    outcome = SimpleNamespace(clean=predict_labels(engine.logits))
    with patch.object(_check, "PASSIVE", len(x)):
        return [check(engine, outcome) for check in all_checks() if check.id in IDS]


def checks(model, x=None, y=None, **options):
    if x is None:
        x, y = make_batch()
    with frozen(model):
        return {check.id: check for check in run_checks(model, x, y, **options)}


def failed(model, x=None, y=None):
    found = checks(model, x, y)
    assert found.keys() == IDS
    return {name for name, check in found.items() if check.status == "fail"}


def black_box(model, batch, attacks=STRONG, *, threat=LINF, alone=False, surrogate=None):
    with frozen(model):
        engine = make_engine(model, *batch, threat, batch_size=64, surrogate=surrogate)
        outcome = run_cascade(engine, attacks, alone=alone)
        return black_box_wins(engine, outcome)


def robust(model, batch, threat, *attacks):
    return robustcls.evaluate(model, *batch, threat, attacks=attacks, precision="fp32").robust.accuracy


@pytest.mark.parametrize("spec", ["none", "pgd(steps=3)"])
def test_a_sound_model_passes_all(spec, net, batch):
    model = net if spec == "none" else train_digits(spec, epochs=4)
    found = [*checks(model, *batch).values(), black_box(model, batch)]
    assert {check.status for check in found} == {"pass"}, found
    assert all(check.message and "\n" not in check.message for check in found)
    assert {check.id for check in found} == IDS | {"black_box_wins"} <= EXPECTED.keys()


def test_the_evaluation_runs_them():
    found = robustcls.evaluate(make_net(), *make_batch(), ThreatModel("linf", 0.02), attacks=["fgsm"])
    assert json.loads(found.to_json())["checks"]
    assert {check.id for check in found.checks} >= IDS - {"device"}


@pytest.mark.parametrize("name", MASKS)
def test_each_mask_is_named(name, net, batch):
    assert failed(Masked(net, **MASKS[name]), *batch) == {name}


def test_a_softmax_is_told_from_what_resembles_it():
    model = Masked(make_net(), after=lambda logits: logits.softmax(1))
    assert failed(model) == {"softmax_output"}
    assert "without its softmax" in checks(model)["softmax_output"].message
    assert failed(Masked(make_net(), after=lambda logits: logits.log_softmax(1))) == set()
    assert failed(Masked(make_net(), after=lambda logits: logits.sigmoid())) == set()


@pytest.mark.parametrize("size", [1e-2, 1.0])
def test_random_logits_are_named(size):
    model = Masked(make_net(), after=lambda logits: logits + size * torch.randn_like(logits))
    assert failed(model) == {"random_output"}
    assert checks(model)["random_output"].measured > 1e-4


@pytest.mark.parametrize(
    "before",
    [fixed_noise, lambda x: x - x.mean(0) + 0.5, lambda x: nn.functional.batch_norm(x, None, None, training=True)],
)
def test_a_model_that_looks_at_the_whole_batch_is_named(before, net, batch):
    """Two passes over the same batch agree bit for bit."""
    found = checks(Masked(net, before=before), *batch)["random_output"]
    assert found.status == "fail"
    assert "depend on the rest of the batch" in found.message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_rounding_is_not_randomness(dtype, n, batch):
    model, x = train_digits(epochs=1).to(dtype), batch[0][:n].to(dtype)
    assert checks(model, x, batch[1][:n])["random_output"].status == "pass"


@pytest.mark.parametrize(
    "changes",
    [{"before": quantise}, {"after": lambda logits: logits.round()}, {"after": lambda logits: 1e6 * logits}],
)
def test_gradients_of_zero_are_named(changes, net, batch):
    model = Masked(net, **changes)
    assert failed(model, *batch) == {"zero_gradients"}
    found = checks(model, *batch)["zero_gradients"]
    assert found.measured > found.threshold == 0.05


def test_large_logits_are_told_from_missing_gradients(net, batch):
    huge, steps = Masked(net, after=lambda logits: 1e6 * logits), Masked(net, before=quantise)
    assert "too large for float32" in checks(huge, *batch)["zero_gradients"].message
    assert "attack without gradients too" in checks(steps, *batch)["zero_gradients"].message


def test_a_model_of_nan_is_named_and_written():
    found = checks(Masked(make_net(), after=lambda logits: logits * float("nan")))["random_output"]
    assert found.status == "fail"
    assert found.measured is None


def test_a_model_without_gradients_is_not_blamed(net, batch):
    model = Masked(net, before=quantise)
    model.differentiable = False
    assert checks(model, *batch)["zero_gradients"].status == "not_run"
    assert black_box(model, batch, ["square(queries=2)"]).status == "not_run"


def test_other_devices_are_named():
    model, (x, y) = make_net(), make_batch()
    elsewhere = run_checks(model, x, y, images_were_on=torch.device("meta"))[-1]
    assert (elsewhere.id, elsewhere.status) == ("device", "warn")
    assert "on meta, the model is on cpu" in elsewhere.message
    model.register_buffer("unused", torch.zeros(1, device="meta"))
    scattered = run_checks(model, x, y)[-1]
    assert (scattered.status, scattered.measured) == ("warn", 2)
    assert "cpu and meta" in scattered.message
    assert run_checks(nn.Flatten(), x, y, images_were_on=x.device)[-1].status == "pass"


@pytest.mark.parametrize("size", [1, 2, 3, 24])
def test_the_batch_size_decides_no_check(size, net, batch):
    x, y = batch[0][:24], batch[1][:24]
    some = torch.arange(24) % 3 == 0

    def flat_where_bright(images):  # without a gradient for every third image
        bright = (images[:, None] == x[some]).flatten(2).all(2).any(1).view(-1, 1, 1, 1)
        return torch.where(bright, images.detach(), images)

    third = checks(Masked(net, before=flat_where_bright), x, y, parts=OomSafeBatches(size))["zero_gradients"]
    assert (third.status, third.measured) == ("fail", pytest.approx(1 / 3))
    for before in (lambda images: images - images.mean(0), fixed_noise):
        found = checks(Masked(net, before=before), x, y, parts=OomSafeBatches(size))["random_output"]
        assert found.status == "fail", found
        assert "depend on the rest of the batch" in found.message
    sound, whole = checks(net, x, y, parts=OomSafeBatches(size)), checks(net, x, y)
    assert {name: check.status for name, check in sound.items()} == {
        name: check.status for name, check in whole.items()
    }
    assert sound["normalised_twice"] == whole["normalised_twice"]


def test_each_evaluation_checks_the_same_samples(net, batch):
    model = Masked(net, before=quantise)
    model.before = lambda images: torch.where(images.mean((1, 2, 3), keepdim=True) > 0.31, quantise(images), images)
    found = []
    for size in (1, 100):
        done = robustcls.evaluate(model, *batch, LINF, attacks=["fgsm"], batch_size=size, precision="fp32")
        found.append(next(check for check in done.checks if check.id == "zero_gradients"))
    assert found[0] == found[1]
    assert " of 32 samples" in found[0].message
    assert 0 < found[0].measured < 1


def test_a_model_that_takes_one_image_at_a_time_is_not_checked_for_batch_dependence(net, batch):
    def alone(images):
        if len(images) == 2:
            raise ValueError("one image at a time")
        return images

    found = checks(Masked(net, before=alone), batch[0][:5], batch[1][:5], parts=OomSafeBatches(1))["random_output"]
    assert found.status == "not_run"
    assert "two images cannot pass together: one image at a time" in found.message


def test_images_without_an_answer_need_no_gradient(net, batch):
    def lose(images):  # NaN for every second image
        odd = (images[:, None] == batch[0][::2]).flatten(2).all(2).any(1).view(-1, 1, 1, 1)
        return torch.where(odd, float("nan"), images)

    found = checks(Masked(net, before=lose), *batch)["zero_gradients"]
    assert (found.status, found.measured) == ("pass", 0)
    assert "of 50 samples" in found.message
    nothing = checks(Masked(net, after=lambda logits: logits * float("nan")), *batch)["zero_gradients"]
    assert nothing.status == "not_run"


@pytest.mark.parametrize("changes", [{"before": quantise}, {"after": lambda logits: 1e6 * logits}])
def test_the_probe_finds_what_misled_gradients_left(changes, net, batch):
    found = black_box(Masked(net, **changes), batch, ["pgd"])
    assert found.status == "fail"
    assert found.measured > 0.5
    assert "square(queries=200, p_init=0.1), square(queries=50) broke 8 of the nearest 8 samples" in found.message
    assert "robust accuracy is overstated: run the suite standard" in found.message


@pytest.mark.parametrize("alone", [True, False])
def test_score_based_attacks_of_the_cascade_decide(alone, net, batch):
    model, attacks = Masked(net, before=quantise), ["square(queries=3)", "pgd", "square(queries=100)"]
    found = black_box(model, batch, attacks, threat=ThreatModel("linf", 0.25), alone=alone)
    assert found.status == "fail"
    assert "nearest" not in found.message
    assert ("square(queries=3)" in found.message) == alone, "in a cascade, pgd did not meet what the first attack broke"


def test_a_noise_attack_does_not_replace_the_black_box_probe(net, batch):
    found = black_box(Masked(net, before=quantise), batch, ["pgd", "noise(draws=1)"])
    assert found.status == "fail"
    assert "square" in found.message


def test_where_there_is_nothing_to_compare(net, batch):
    assert "no attack used gradients" in black_box(net, batch, ["noise"]).message
    assert "another model's" in black_box(net, batch, ["fgsm"], surrogate=train_digits(epochs=1)).message
    nothing_left = black_box(net, batch, ["fgsm", "pgd"], threat=ThreatModel("linf", 0.9))
    assert (nothing_left.status, nothing_left.measured) == ("not_run", None)
    assert black_box(net, batch, threat=ThreatModel("linf", 0)).status == "pass"
    assert black_box(net, batch, ["tests.helpers.eval_models:raises"]).status == "not_run", "the only attack failed"


def test_the_same_probe_each_time(net, batch):
    model = Masked(net, before=quantise)
    assert black_box(model, batch, ["fgsm"]) == black_box(model, batch, ["fgsm"])


def test_the_cascade_sees_through_large_logits(net, batch):
    """The second attack of STRONG uses ratios of logits, which do not depend on their scale."""
    huge = Masked(net, after=lambda logits: 1e6 * logits)
    assert robust(huge, batch, LINF, "pgd") > 0.9, "the gradient of cross-entropy vanishes"
    assert robust(huge, batch, LINF, *STRONG) == pytest.approx(robust(net, batch, LINF, *STRONG), abs=0.03)


def test_the_cascade_sees_through_quantised_input(net, batch):
    steps, threat = Masked(net, before=quantise), ThreatModel("linf", 0.2)
    assert robust(steps, batch, threat, *STRONG) > 0.9, "attacks with gradients are misled"
    square = "square(queries=1000)"
    assert robust(steps, batch, threat, STRONG[0], square) == pytest.approx(
        robust(net, batch, threat, square), abs=0.06
    )


def test_black_boxes_meet_nothing_where_no_clean_image_is_right():
    x, y = make_batch()
    wrong = (make_net()(x).argmax(1) + 1) % 4
    found = evaluated(make_net(), x, wrong, ThreatModel("linf", 0.01), ["fgsm"], precision="fp32").evaluation
    check = next(check for check in found.checks if check.id == "black_box_wins")
    assert (check.status, "no clean image right" in check.message) == ("not_run", True)
