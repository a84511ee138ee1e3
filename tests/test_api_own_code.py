"""The user's own attacks and methods, and suites, wherever the Python API accepts an attack."""

import functools
import inspect
import warnings

import pytest
import torch
from torch import nn

import robustcls
from robustcls import InputError
from robustcls.core import plugins
from robustcls.core.gradients import input_gradient
from robustcls.core.threat import ThreatModel
from robustcls.training.inner_attack import InnerAttack
from tests.helpers.eval_models import train_linear

EPS = 0.1
TRAINING = {"epochs": 1, "batch_size": 16, "val_n": 20, "val_attack": "fgsm", "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def data():
    return robustcls.load_data("digits(size=8)", n=24)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(36, 10)
    )


@pytest.fixture(scope="module")
def trained(data):
    return train_linear(*data)


def my_attack(model, x, y, threat, *, steps: int = 2, generator=None):
    x_adv = x
    for _ in range(steps):
        x_adv = threat.project(x_adv + threat.eps / steps * threat.steepest(input_gradient(model, x_adv, y)), x)
    return x_adv


# Suites among attacks


def test_a_suite_among_attacks_stands_for_its_own(trained, data):
    suite = robustcls.evaluate(trained, *data, "linf:0.1", suite="fast")
    both = robustcls.evaluate(trained, *data, "linf:0.1", attacks=["fast", my_attack])
    assert [attack.name for attack in both.attacks] == [*(attack.name for attack in suite.attacks), "my_attack"]
    assert both.robust.kind == "upper bound: fast, my_attack"
    assert [attack.options for attack in both.attacks[:-1]] == [attack.options for attack in suite.attacks]
    assert [attack.broken for attack in both.attacks[:-1]] == [attack.broken for attack in suite.attacks]
    assert both.provenance.config["attacks"] == [*suite.provenance.config["attacks"], "my_attack"]
    alone = robustcls.evaluate(trained, *data, "linf:0.1", attacks="fast")
    assert alone.robust.kind == suite.robust.kind
    assert alone.samples == suite.samples


def test_one_attack_is_wanted_where_a_suite_is_none(trained, data):
    for suite in ("fast", "fast(steps=3)"):
        with pytest.raises(InputError, match="fast is a suite.*name one, such as pgd"):
            robustcls.attack(trained, *data, "linf:0.1", suite)
    assert not set(plugins.names("suite")) & set(plugins.names("attack"))
    with pytest.raises(InputError, match="the suite as one of `attacks`"):
        robustcls.evaluate(trained, *data, "linf:0.1", attacks=[my_attack], suite="fast")


# Refusals, which say how to do it


def test_evaluate_aims_and_says_what_cannot(trained, data):
    found = robustcls.evaluate(trained, *data, "linf:1", target=3)
    assert found.targeted.reached.accuracy > 0.5
    assert all(one.target == 3 for one in found.samples)
    with pytest.raises(InputError, match="cannot aim .*suite=targeted"):
        robustcls.evaluate(trained, *data, "linf:0.1", target=3, suite="fast")


@pytest.mark.parametrize("wrap", [lambda method: method, lambda method: ["saliency", method]])
def test_evaluate_takes_no_function_for_a_method_and_says_how_to_go_on(trained, data, wrap):
    def my_method(model, x, target):
        return x

    with pytest.raises(
        InputError, match="`method` holds a function, my_method.*package.module:name.*robustcls.explain"
    ):
        robustcls.evaluate(trained, *data, "linf:0.1", attacks="fgsm", maps_n=2, method=wrap(my_method))
    result = robustcls.evaluate(trained, *data, "linf:0.1", attacks="fgsm", maps_n=2, method=f"{__name__}:own_map")
    assert [one.method for one in result.explanations.methods] == [f"{__name__}:own_map"]


def own_map(model, x, target):
    return x


# What an attack returns


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: None, "it gave NoneType for images (24, 1, 8, 8)"),
        (lambda x: x[:, 0], "it gave (24, 8, 8) for images (24, 1, 8, 8)"),
        (lambda x: x[:1], "it gave (1, 1, 8, 8) for images"),
        (lambda x: (x * 255).byte(), "it gave torch.uint8 for images of torch.float32"),
    ],
)
def test_what_is_no_image_is_refused(trained, data, give, message, tmp_path):
    def mine(model, x, y, threat):
        return give(x)

    with pytest.raises(InputError) as caught:
        robustcls.attack(trained, *data, "linf:0.1", mine)
    assert message in str(caught.value)
    assert str(caught.value).startswith("mine: ")
    with pytest.warns(UserWarning, match="mine failed.*it gave"):
        result = robustcls.evaluate(trained, *data, "linf:0.1", attacks=[mine])
    assert result.robust == result.clean.__class__(**{**vars(result.clean), "kind": result.robust.kind})
    with pytest.raises(InputError, match="inner attack .*mine: it gave"):
        robustcls.train(data=data, arch=trained, adv=mine, augment="none", eps=EPS, out=tmp_path / "run", **TRAINING)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: (x + 0.3).clamp(0, 1), "outside linf:0.1, the farthest at 0.3"),
        (lambda x: x + 0.1, r"outside \[0, 1\], by up to 0.1"),
        (
            lambda x: x.where(torch.arange(len(x))[:, None, None, None] > 1, torch.nan),
            "2 with values that are not finite",
        ),
    ],
)
def test_what_leaves_ball_or_box_is_said_with_how_many_and_how_far(trained, data, give, message):
    def mine(model, x, y, threat):
        return give(x)

    with pytest.warns(UserWarning, match=f"mine: of 24 images .*{message}.*end with threat.project") as said:
        x_adv = robustcls.attack(trained, *data, "linf:0.1", mine)
    assert said[0].filename == __file__
    torch.testing.assert_close(x_adv, give(data[0]), equal_nan=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        robustcls.attack(trained, *data, "linf:0.1", lambda *given: mine(*given).nan_to_num(0.5).clamp(
            data[0] - 0.1, data[0] + 0.1).clamp(0, 1))  # fmt: skip
        for allowed in ("pgd(steps=2)", "fmn(steps=3)", "n_fgsm", "noise", "square(queries=5)"):
            robustcls.attack(trained, *data, "linf:0.1", allowed)
        for norm in ("l2:0.5", "l1:3"):
            robustcls.attack(trained, *data, norm, "pgd(steps=3)")


# What an attack does to the model


def vandal(model, x, y, threat, *, generator=None):
    """An attack that writes to the model wherever it can."""
    model.train()
    model(x)
    with torch.enable_grad():
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        nn.functional.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for tensor in (*model.parameters(), *(one for one in model.buffers() if one.is_floating_point())):
            tensor.add_(1)
            tensor.data.mul_(2)
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    last.weight = nn.Parameter(torch.zeros_like(last.weight))
    last.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    return x


def state(model):
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "same": [id(value) for value in (*model.parameters(), *model.buffers())],
        "grads": [None if one.grad is None else one.grad.clone() for one in model.parameters()],
        "flags": [one.requires_grad for one in model.parameters()],
        "modes": [module.training for module in model.modules()],
    }


@pytest.mark.parametrize("left", ["fresh", "with gradients"])
def test_an_attack_that_writes_to_the_model_leaves_it_bit_for_bit(model, data, left):
    if left == "with gradients":
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        model[0].bias.requires_grad_(False)
    before = state(model)
    plain = robustcls.evaluate(model, *data, "linf:0.1", attacks=["pgd(steps=2)"])
    alone = robustcls.attack(model, *data, "linf:0.1", "pgd(steps=2)")
    robustcls.attack(model, *data, "linf:0.1", vandal, batch_size=10)
    after = robustcls.evaluate(model, *data, "linf:0.1", attacks=[vandal, "pgd(steps=2)"], batch_size=10)
    now = state(model)
    torch.testing.assert_close(now["values"], before["values"], rtol=0, atol=0)
    for one, other in zip(now["grads"], before["grads"], strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert {key: now[key] for key in ("same", "flags", "modes")} == {
        key: before[key] for key in ("same", "flags", "modes")
    }
    assert after.attacks[0].broken == 0, "success is judged by the unchanged model"
    assert after.clean == plain.clean
    assert after.robust.correct == plain.robust.correct
    assert torch.equal(alone, robustcls.attack(model, *data, "linf:0.1", "pgd(steps=2)"))


# Training with an attack of the user's own


@pytest.fixture
def photos():
    return robustcls.load_data("digits(size=8)", split="train", n=80)


def test_train_takes_an_attack_function_and_goes_on_with_it(model, photos, tmp_path):
    met = []

    def counting(model, x, y, threat, *, generator=None):
        met.append(len(x))
        return my_attack(model, x, y, threat)

    task = {"data": photos, "arch": model, "eps": EPS, "augment": "none", **TRAINING}
    run = robustcls.train(adv=counting, out=tmp_path / "a", **task)
    assert sum(met) >= 48, "each training image is attacked"
    assert run.config.objective == "adversarial"
    name = f"{__name__}:test_train_takes_an_attack_function_and_goes_on_with_it.<locals>.counting"
    assert run.config.adv == name
    saved = torch.load(run.folder / "ckpt.pt", weights_only=True)
    assert saved["meta"]["config"]["adv"] == name
    assert "# data and arch and adv came from Python\n" in (run.folder / "config.toml").read_text()

    other = robustcls.train(adv=functools.partial(my_attack, steps=2), out=tmp_path / "b", **task)
    assert other.config.adv == f"{__name__}:my_attack(steps=2)"
    assert [row.train_loss for row in other.history] == [row.train_loss for row in run.history]
    plain = robustcls.train(adv="fgsm(random_start=False)", out=tmp_path / "c", **task)
    assert plain.history[0].train_loss != run.history[0].train_loss

    again = robustcls.train(resume=run.folder, data=photos, arch=model, adv=counting)
    assert again.history == run.history
    for objects, message in (
        ({}, r"adv=\.\.\."),
        ({"adv": my_attack}, "began with the inner attack .*counting, not .*my_attack"),
    ):
        with pytest.raises(InputError, match=message):
            robustcls.train(resume=run.folder, data=photos, arch=model, **objects)
    with pytest.raises(InputError, match="began with the inner attack fgsm.*leave out `adv`"):
        robustcls.train(resume=plain.folder, data=photos, arch=model, adv=my_attack)


def test_a_run_that_is_cut_off_goes_on_with_the_same_attack(model, photos, tmp_path):
    left = []

    def mine(model, x, y, threat, *, generator=None):
        left.append(0)
        if len(left) == 9:
            raise KeyboardInterrupt
        return my_attack(model, x, y, threat)

    task = {"data": photos, "arch": model, "eps": EPS, "augment": "none", **TRAINING, "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        robustcls.train(adv=mine, out=tmp_path / "run", **task)
    run = robustcls.train(resume=tmp_path / "run", data=photos, arch=model, adv=mine)
    whole = robustcls.train(adv=my_attack, out=tmp_path / "whole", **task)
    assert [row.train_loss for row in run.history] == [row.train_loss for row in whole.history]


def test_what_an_inner_attack_cannot_do_is_said(model, photos, tmp_path):
    task = {"data": photos, "arch": model, "eps": EPS, "augment": "none", **TRAINING}
    with pytest.raises(InputError, match="trades.* needs an inner attack that takes its loss"):
        robustcls.train(adv=my_attack, objective="trades", out=tmp_path / "a", **task)
    with pytest.raises(InputError, match=r"step free.* makes its own adversarial images: leave out `adv="):
        robustcls.train(adv=my_attack, step="free(replays=2)", out=tmp_path / "a", **task)
    assert not (tmp_path / "a").exists()

    def outside(model, x, y, threat):
        return x + 0.3

    with pytest.warns(UserWarning, match="inner attack .*outside: of .* outside linf:0.1, the farthest at 0.3"):
        robustcls.train(adv=outside, out=tmp_path / "b", **task)


def test_an_inner_attack_that_flips_the_mode_changes_nothing(model, photos, tmp_path):
    def flips(model, x, y, threat, *, generator=None):
        x_adv = my_attack(model, x, y, threat)
        model.train()
        return x_adv

    task = {"data": photos, "arch": model, "eps": EPS, "augment": "none", **TRAINING}
    one = robustcls.train(adv=flips, out=tmp_path / "a", **task)
    other = robustcls.train(adv=my_attack, out=tmp_path / "b", **task)
    assert one.history[0].train_loss == other.history[0].train_loss
    assert one.history[0].val_robust == other.history[0].val_robust


def test_the_signature_says_what_is_taken():
    assert "Callable" in str(inspect.signature(robustcls.train).parameters["adv"].annotation)


def test_an_attack_that_writes_on_its_input_in_training_is_said(model):
    def overwrites(model, x, y, threat, *, generator=None):
        x.zero_()
        return x

    attack = InnerAttack(overwrites, "adversarial", ThreatModel("linf", 0.1))
    x = torch.rand(4, 1, 8, 8)
    before = x.clone()
    with pytest.warns(UserWarning, match="4 outside linf"):
        attack(model, x, torch.zeros(4, dtype=torch.int64), generator=None)
    assert torch.equal(x, before)


def test_an_inner_attack_that_gives_no_numbers_is_refused(model):
    attack = InnerAttack(lambda model, x, y, threat: x * torch.nan, "adversarial", ThreatModel("linf", 0.1))
    with pytest.raises(InputError, match="not finite"):
        attack(model, torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64), generator=None)


def test_where_every_attack_fails_robust_accuracy_is_no_bound(model):
    def fails(model, x, y, threat):
        raise RuntimeError("boom")

    x = torch.rand(8, 1, 8, 8)
    y = model.eval()(x).argmax(1)
    with pytest.warns(UserWarning, match="boom"):
        result = robustcls.evaluate(model, x, y, "linf:0.1", attacks=[fails])
    assert result.robust.kind == "clean accuracy: every attack failed: fails"
    with pytest.warns(UserWarning, match="boom"):
        result = robustcls.evaluate(model, x, y, "linf:0.1", attacks=["noise(draws=1)", fails])
    assert result.robust.kind == "upper bound: noise(draws=1), fails; failed: fails"


def test_an_attack_that_is_no_attack(model):
    x, y = torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(InputError, match="neither a spec nor a function"):
        robustcls.attack(model, x, y, "linf:0.1", 3)


def test_tensors_are_not_called_a_whole_split(model):
    x, y = torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    assert "not known" in robustcls.evaluate(model, x, y, "linf:0.1", attacks=["fgsm"]).data.estimates
