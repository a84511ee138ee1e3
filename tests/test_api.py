"""Every call of the Python API, on a user's own module, which must be left unchanged."""

import copy
import functools
import inspect
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import robustcls
from robustcls import InputError, ThreatModel
from robustcls.data.images import Images

EPS = 0.1


class Net(nn.Module):
    """A network in which train and eval mode differ, with a buffer that counts passes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.head = nn.Linear(4 * 14 * 14, 10)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        x = nn.functional.interpolate(x.mean(1, keepdim=True), size=28)
        return self.head(self.body(x).flatten(1))


@pytest.fixture(scope="module")
def data():
    return robustcls.load_data("digits", split="test", n=24)


@pytest.fixture
def model(data):
    """Return a model in train mode, with gradients left behind and one parameter that requires none."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data[0]), data[1]).backward()
        optimizer.step()
    net.body[0].bias.requires_grad_(False)
    return net.train()


def state(model):
    """Return everything that a call must leave unchanged: in the module, the random generators and the global settings."""
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "same": [id(value) for value in (*model.parameters(), *model.buffers())],
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "flags": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "random": (torch.get_rng_state(), pickle.dumps(np.random.get_state()), random.getstate()),
        "settings": (
            torch.is_grad_enabled(), torch.get_num_threads(), torch.get_float32_matmul_precision(),
            torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32,
            torch.are_deterministic_algorithms_enabled(), tuple(sys.path), Path.cwd(),
        ),
    }  # fmt: skip


def assert_same(now, before):
    torch.testing.assert_close(now["tensors"], before["tensors"], rtol=0, atol=0)
    for name, grad in before["grads"].items():
        assert (grad is None and now["grads"][name] is None) or torch.equal(now["grads"][name], grad), name
    assert torch.equal(now["random"][0], before["random"][0])
    for key in ("same", "flags", "modes", "hooks", "settings"):
        assert now[key] == before[key], key
    assert now["random"][1:] == before["random"][1:]


@pytest.fixture
def untouched(model):
    """Check at the end of the test that the model and the process are unchanged."""
    before = state(model)
    yield
    assert_same(state(model), before)


def my_attack(model, x, y, threat, *, steps=3, generator=None):
    """Take steps of steepest ascent from the image itself."""
    from robustcls.core.gradients import input_gradient

    x_adv = x
    for _ in range(steps):
        x_adv = threat.project(x_adv + threat.eps / steps * threat.steepest(input_gradient(model, x_adv, y)), x)
    return x_adv


def without_generator(model, x, y, threat):
    return my_attack(model, x, y, threat)


# The designed use of the Python API: one line for each kind of call, in the order in which a user makes them


LINES = """
import robustcls
model = robustcls.load("ckpt.pt")
images, labels = robustcls.load_data("cifar10", split="test", n=1000)
result = robustcls.evaluate(model, images, labels, robustcls.ThreatModel("linf", 8 / 255), suite="fast")
assert 0 <= result.robust.accuracy <= 1
result = robustcls.evaluate(model, loader, threat="linf:8/255", attacks=["pgd(steps=20)", my_attack])
result.examples.x_adv, result.examples.success, result.examples.distance; result.save("evaluation.json")
x_adv = robustcls.attack(model, images, labels, robustcls.ThreatModel.parse("linf:8/255"), "pgd(steps=20)", target=None)
maps = robustcls.explain(model, images, target=labels, method="integrated_gradients")
run = robustcls.train(data=(images, labels), arch=my_module_or_spec, adv="pgd(steps=3)", epochs=10, out="runs/mine")
run.model, run.history, run.folder
robustcls.report(result, "report.html")
"""


def squares(split: str, *, data_dir: str | None = None) -> Images:
    """A stand-in for CIFAR-10, where the class is the position of a bright square."""
    labels = torch.arange(40) % 10
    pixels = torch.full((40, 3, 32, 32), 40, dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, 3 * label : 3 * label + 5, 4:9] = 220
    return Images(pixels, labels, tuple("abcdefghij"), "cifar10")


@pytest.mark.usefixtures("untouched")
def test_train_attack_explain_and_report_run_as_one_script(model, tmp_path, monkeypatch):
    monkeypatch.setattr("robustcls.data.sets.cifar.cifar10", squares)
    monkeypatch.chdir(tmp_path)
    arch = "vgg11(width=0.05)"
    made = robustcls.train(data="cifar10", arch=arch, adv="fgsm", epochs=1, val_n=4, device="cpu", out="made")
    (made.folder / "ckpt.pt").rename("ckpt.pt")
    images, labels = robustcls.load_data("cifar10", n=20)
    loader = DataLoader(TensorDataset(images, labels), batch_size=8, generator=torch.Generator())
    names = {"loader": loader, "my_attack": my_attack, "my_module_or_spec": model}
    exec(LINES, names)
    assert isinstance(names["model"], nn.Module)
    assert names["images"].shape == names["x_adv"].shape == names["maps"].shape == (40, 3, 32, 32)
    assert names["result"].examples.x_adv.shape == (20, 3, 32, 32)
    assert len(names["run"].history) == 10
    assert names["run"].folder == Path("runs/mine")
    assert names["run"].model(images).shape == (20, 10)
    assert {"evaluation.json", "report.html"} <= {file.name for file in tmp_path.iterdir()}


# evaluate


@pytest.mark.usefixtures("untouched")
def test_evaluate_takes_tensors(model, data):
    images, labels = data
    result = robustcls.evaluate(model, images, labels, robustcls.ThreatModel("linf", EPS), suite="fast")
    assert isinstance(result, robustcls.Evaluation)
    assert result.robust.accuracy <= result.clean.accuracy
    assert result.robust.kind == "upper bound: fast"


@pytest.mark.usefixtures("untouched")
def test_evaluate_takes_any_iterable_of_batches_and_text_for_the_threat(model, data):
    images, labels = data
    whole = robustcls.evaluate(model, images, labels, ThreatModel("linf", EPS), attacks=["fgsm"])
    dataset = TensorDataset(images, labels)
    loader = DataLoader(dataset, batch_size=7, generator=torch.Generator())  # draws a seed at each pass
    by_place = robustcls.evaluate(model, dataset, "linf:8/255", attacks=["fgsm"])  # threat given by position
    assert by_place.threat.eps_text == "8/255"
    for given in (loader, dataset, [(images[:5], labels[:5]), (images[5:], labels[5:])]):
        found = robustcls.evaluate(model, given, threat=f"linf:{EPS}", attacks=["fgsm"])
        assert found.samples == whole.samples
        assert found.data.sha256 == whole.data.sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "the images have no labels: give `labels`"),
        ({"images": [], "labels": None}, "holds no batch"),
        ({"images": [torch.rand(2, 1, 8, 8)], "labels": None}, "batch 0 of the data is Tensor"),
        ({"threat": None}, 'give `threat`, such as `threat="linf:8/255"`'),
        ({"threat": "linf"}, "write it as linf:8/255"),
        ({"threat": "linf:8"}, "did you mean 8/255?"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_and_in_python(model, data, changes, message):
    arguments = {"images": data[0], "labels": data[1], "threat": "linf:0.1", "attacks": ["fgsm"]} | changes
    with pytest.raises(InputError) as caught:
        robustcls.evaluate(model, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--" not in str(caught.value)


@pytest.mark.usefixtures("untouched")
def test_evaluate_takes_specs_and_functions_and_keeps_the_examples(model, data, tmp_path):
    loader = DataLoader(TensorDataset(*data), batch_size=10, generator=torch.Generator())
    result = robustcls.evaluate(model, loader, threat="linf:8/255", attacks=["pgd(steps=20)", my_attack])
    assert result.attacks[0].name == "pgd"
    assert "my_attack" in result.attacks[1].name
    x_adv, success, distance = result.examples.x_adv, result.examples.success, result.examples.distance
    assert x_adv.shape == data[0].shape
    assert int(success.sum()) == sum(attack.broken for attack in result.attacks)
    assert (distance[success] <= 8 / 255 + 1e-6).all()
    result.save(tmp_path / "evaluation.json")
    assert robustcls.Evaluation.load(tmp_path / "evaluation.json").samples == result.samples
    assert result.curve is None
    assert result.not_run == {}
    assert (result.calibration, result.explanations, result.gallery, result.corruptions) == (None, None, None, None)


@pytest.mark.usefixtures("untouched")
def test_evaluate_does_what_the_command_attack_does(model, data, tmp_path):
    plain = robustcls.evaluate(model, *data, "linf:0.1", attacks=["fgsm", "pgd(steps=2)"])
    alone = robustcls.evaluate(
        model, *data, "linf:0.1", attacks=["fgsm", "pgd(steps=2)"], each_alone=True, eps_grid=[0.2, 0, "8/255"],
        checks="all", precision="fp32", data_note="small", intended_use="tests", license="MIT",
    )  # fmt: skip
    assert all(attack.alone for attack in alone.attacks)
    assert not any(attack.alone for attack in plain.attacks)
    assert alone.robust.accuracy == plain.robust.accuracy
    assert [point.eps for point in alone.curve] == [0, 8 / 255, 0.1, 0.2]
    assert len(alone.checks) > len(plain.checks)
    assert (alone.intended_use, alone.license) == ("tests", "MIT")
    assert "small" in alone.data.note
    earlier = robustcls.evaluate(model, *data, "linf:0.1", attacks=["fgsm", "pgd(steps=2)"], alone=True)
    assert [attack.alone for attack in earlier.attacks] == [attack.alone for attack in alone.attacks]


@pytest.mark.usefixtures("untouched")
def test_examples_are_crafted_on_another_model_or_on_what_its_spec_names(model, data):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other = Net()
        by_spec = robustcls.evaluate(model, *data, "linf:0.1", attacks=["fgsm"], transfer_from=f"{__name__}:Net")
    by_object = robustcls.evaluate(model, *data, "linf:0.1", attacks=["fgsm"], transfer_from=other)
    assert by_object.surrogate.name == "Net"
    assert by_object.threat.knowledge.startswith("transfer")
    assert by_spec.surrogate.name == "Net"
    white = robustcls.evaluate(model, *data, "linf:0.1", attacks=["fgsm"])
    assert by_object.robust.correct >= white.robust.correct


@pytest.mark.usefixtures("untouched")
def test_an_evaluation_that_was_cut_off_goes_on(model, data, tmp_path):
    runs = []

    def slow(model, x, y, threat, *, generator=None):
        runs.append(len(x))
        if len(runs) == 2:
            raise KeyboardInterrupt
        return my_attack(model, x, y, threat)

    options = {"threat": "linf:0.1", "attacks": [slow], "batch_size": 12, "resume": tmp_path / "kept"}
    with pytest.raises(KeyboardInterrupt):
        robustcls.evaluate(model, *data, **options)
    assert (tmp_path / "kept" / "task.json").exists()
    result = robustcls.evaluate(model, *data, **options)
    assert len(runs) == 3, "the first batch was kept"
    assert not (tmp_path / "kept").exists()
    whole = robustcls.evaluate(model, *data, "linf:0.1", attacks=[my_attack], batch_size=12)
    assert torch.equal(result.examples.x_adv, whole.examples.x_adv)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="holds something else: name a folder of its own with `resume`"):
        robustcls.evaluate(model, *data, **options | {"resume": tmp_path / "mine"})
    assert (tmp_path / "mine" / "thesis.tex").exists()


@pytest.mark.usefixtures("untouched")
def test_evaluate_does_what_the_command_report_does(model, data):
    small = data[0][:12], data[1][:12]
    result = robustcls.evaluate(
        model, *small, "linf:0.1", attacks=["fgsm"], examples=2, maps_n=3, method="saliency", corruptions_n=4
    )
    assert len(result.gallery.examples) == 2
    assert 0 < result.explanations.n <= 3
    assert [one.method for one in result.explanations.methods] == ["saliency"]
    assert result.corruptions.n == 4
    assert result.calibration is not None
    assert not result.minimum
    assert result.not_run["minimum"] == "left out by --minimum-n 0"
    assert result.examples.x_adv.shape == small[0].shape
    quick = robustcls.evaluate(model, *small, "linf:0.1", profile="quick", maps_n=0, examples=1, method="saliency")
    assert quick.profile == "quick"
    assert quick.robust.kind == "upper bound: apgd_ce(steps=20)"
    assert quick.data.n == 12
    assert len(quick.gallery.examples) == 1
    assert quick.explanations is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map_n": 3}, "unknown option 'map_n': did you mean 'maps_n'"),
        ({"device": "cpu"}, "unknown option 'device'"),
        ({"checks": "some"}, "unknown checks 'some': there are all, passive"),
        ({"minutes": -1}, "`minutes=-1` is not a time"),
        ({"maps_n": -1}, "`maps_n=-1` is negative"),
        ({"eps_grid": ["a"]}, "eps 'a' is not a radius"),
        ({"maps_n": 2, "method": "salency"}, "did you mean 'saliency'"),
        ({"batch_size": 0}, "`batch_size=0` is not a number of images"),
        ({"profile": "fast"}, "unknown profile 'fast'"),
        ({"transfer_from": "nowhere.pt"}, "no file nowhere.pt"),
    ],
)
def test_what_cannot_be_measured_is_said_in_python(model, data, options, message):
    with pytest.raises(InputError) as caught:
        robustcls.evaluate(model, *data, "linf:0.1", attacks=["fgsm"], **options)
    assert message in str(caught.value)
    assert "--" not in str(caught.value)


# attack


@pytest.mark.usefixtures("untouched")
def test_attack_takes_a_spec_or_a_function(model, data):
    images, labels = data
    threat = robustcls.ThreatModel.parse(f"linf:{EPS}")
    by_spec = robustcls.attack(model, images, labels, threat, "pgd(steps=20)", target=None)
    assert torch.equal(by_spec, robustcls.attack(model, images, labels, f"linf:{EPS}")), "pgd(steps=20) is the default"
    found = {}
    for function in (my_attack, functools.partial(my_attack, steps=3), without_generator):
        found[function] = robustcls.attack(model, images, labels, threat, function)
    for x_adv in (by_spec, *found.values()):
        assert x_adv.shape == images.shape
        assert x_adv.device == images.device
        assert (x_adv - images).abs().max() <= EPS + 1e-6
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
    first, *others = found.values()
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(first, by_spec)


def towards(model, x, y, threat, *, target=None, generator=None):
    """An attack that returns the target as a grey level."""
    return (x * 0 if target is None else target.view(-1, 1, 1, 1) / 100).expand_as(x)


@pytest.mark.usefixtures("untouched")
def test_a_target_is_a_class_for_all_or_for_each_or_a_rule(model, data):
    images, labels = data
    copied = copy.deepcopy(model).eval()
    logits = copied(images).detach()

    def asked(target, seed=0):
        x_adv = robustcls.attack(model, images, labels, "linf:1", towards, target=target, seed=seed)
        return (x_adv[:, 0, 0, 0] * 100).round().long()

    aimed = labels != 3
    assert (asked(3)[aimed] == 3).all()
    kept = robustcls.attack(model, images, labels, "linf:1", towards, target=3)
    assert torch.equal(kept[~aimed], images[~aimed]), "images of the target class are unchanged"
    each = (labels + 1) % 10
    assert torch.equal(asked(each), each)
    assert torch.equal(asked(each.tolist()), each)
    others = logits.scatter(1, labels[:, None], -torch.inf)
    assert torch.equal(asked("second"), others.argmax(1))
    assert torch.equal(asked("least_likely"), others.masked_fill(others.isinf(), torch.inf).argmin(1))
    drawn = asked("random")
    assert (drawn != labels).all()
    assert len(drawn.unique()) > 4
    assert torch.equal(drawn, asked("random"))
    assert not torch.equal(drawn, asked("random", seed=1))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("secnd", "did you mean 'second'"),
        (10, "none of the model's 10 classes"),
        (-1, "target -1 is none"),
        ([1, 2], "give one per image"),
    ],
)
def test_a_wrong_target_is_named(model, data, target, message):
    with pytest.raises(InputError, match=message):
        robustcls.attack(model, *data, "linf:1", towards, target=target)


def test_an_attack_that_cannot_aim_says_so(model, data):
    with pytest.raises(InputError, match="deepfool.* cannot aim at a class: leave out `target`"):
        robustcls.attack(model, *data, "linf:0.1", "deepfool(steps=10)", target=3)


# explain


def my_method(model, x, target):
    return x * target.view(-1, 1, 1, 1)


@pytest.mark.usefixtures("untouched")
def test_explain_takes_targets_and_methods_in_any_form(model, data):
    images, labels = data
    maps = robustcls.explain(model, images, target=labels, method="integrated_gradients")
    assert maps.shape == images.shape
    assert maps.device == images.device
    in_parts = robustcls.explain(model, images, labels, "integrated_gradients", batch_size=5)
    torch.testing.assert_close(maps, in_parts, rtol=1e-4, atol=1e-5)
    assert torch.equal(maps, robustcls.explain(model, images, labels))
    predicted = copy.deepcopy(model).eval()(images).argmax(1)
    assert torch.equal(robustcls.explain(model, images), robustcls.explain(model, images, predicted))
    assert torch.equal(robustcls.explain(model, images, 3, my_method), images * 3)


# train

OPTIONS = {"epochs": 1, "batch_size": 16, "val_n": 20, "val_attack": "fgsm", "device": "cpu", "precision": "fp32"}


@pytest.mark.usefixtures("untouched")
def test_train_takes_tensors_and_a_module_and_trains_a_copy(model, tmp_path):
    images, labels = robustcls.load_data("digits", split="train", n=80)
    run = robustcls.train(
        data=(images, labels), arch=model, adv="pgd(steps=3)", out=tmp_path / "mine", eps="0.1", **OPTIONS
    )
    assert run.folder == tmp_path / "mine"
    assert {file.name for file in run.folder.iterdir()} == {"ckpt.pt", "last.pt", "config.toml", "history.jsonl"}
    assert [row.epoch for row in run.history] == [1]
    assert run.history[0].val_robust is not None
    assert not run.model.training
    assert run.model(images).shape == (80, 10)
    assert (run.config.adv, run.config.eps, run.config.seed) == ("pgd(steps=3)", "0.1", 0)
    result = robustcls.evaluate(run.model, images, labels, "linf:0.1", attacks=["fgsm"])
    assert result.clean.total == 80


def test_train_takes_a_spec_a_function_or_a_loader_and_goes_on(tmp_path):
    def tiny(num_classes, input_size):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    by_spec = robustcls.train(
        data="digits(size=8)", arch=tiny, adv="none", limit_train=80, lr=0.1, out=tmp_path / "a", **OPTIONS
    )
    assert by_spec.config.objective == "standard"
    images, labels = robustcls.load_data("digits(size=8)", split="train", n=80)
    loader = DataLoader(TensorDataset(images, labels), batch_size=30)
    seen = {}
    for name, data in (("b", loader), ("c", (images, labels))):
        run = robustcls.train(data=data, arch=tiny, adv="fgsm", out=tmp_path / name, mean=0.5, std=(0.25,), **OPTIONS)
        seen[name] = (run.history[0].train_loss, run.config.mean, run.config.std)
    assert seen["b"] == seen["c"]
    assert seen["b"][1:] == ("0.5", "0.25")
    again = robustcls.train(resume=tmp_path / "c", data=loader, arch=tiny)
    assert again.history == run.history, "the resumed run was already finished"


def test_the_recipe_of_the_data_set_comes_before_the_defaults_and_after_what_is_given(tmp_path):
    from robustcls.data import recipe

    usual = recipe("digits")
    assert usual["epochs"] != OPTIONS["epochs"]
    run = robustcls.train(
        data="digits(size=8)", arch="vgg16(width=0.05)", limit_train=80, out=tmp_path / "run", **OPTIONS
    )
    assert (run.config.epochs, run.config.norm, run.config.eps) == (1, usual.get("norm", "linf"), usual["eps"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 1}, "unknown option 'epoch': did you mean 'epochs'"),
        ({"epochs": 1.5}, "option epochs: 1.5 is not a whole number"),
        ({"epochs": 0}, "`epochs=0` is too small"),
        ({"data": "digit"}, "did you mean 'digits'"),
        ({"data": torch.rand(2, 1, 8, 8)}, "the images have no labels"),
        ({"arch": "vgg16x"}, "did you mean 'vgg16'"),
        ({"adv": "pgdd"}, "did you mean 'pgd'"),
        ({"resume": "nowhere"}, "no nowhere/last.pt: give the folder of a run"),
        ({"resume": "nowhere", "lr": 0.1}, "`resume` goes on with the run's own configuration: leave out `lr`"),
    ],
)
def test_what_cannot_be_trained_is_said_in_python_and_leaves_nothing(options, message, tmp_path):
    out = {} if "resume" in options else {"out": tmp_path / "run"}
    with pytest.raises(InputError) as caught:
        robustcls.train(**out, **options)
    assert message in str(caught.value)
    assert "--" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# export


@pytest.mark.usefixtures("untouched")
def test_export_of_the_design(model, data, tmp_path):
    pytest.importorskip("onnxscript")
    images, labels = data
    artefact = robustcls.export(model, f"{tmp_path / 'artefact'}/", calibration=images, quantize="int8")
    assert artefact.manifest.quantization.spec.startswith("int8(")
    x_adv = robustcls.attack(artefact.load(), images, labels, "linf:0.1", "pgd(steps=2)")
    assert x_adv.shape == images.shape


# load and load_data


def test_load_takes_what_the_command_takes(tmp_path):
    torch.save(Net().state_dict(), tmp_path / "weights.pt")
    with pytest.warns(UserWarning, match=r"assumed to take \[0, 1\] pixels"):
        model = robustcls.load(tmp_path / "weights.pt", arch=lambda classes, size: Net(), input_size=(1, 28, 28))
    assert not model.training
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert isinstance(robustcls.load(f"{__name__}:Net"), Net)


def test_load_data_is_fair_to_the_classes():
    images, labels = robustcls.load_data("digits", n=50)
    assert images.dtype == torch.float32
    assert images.shape[0] == len(labels) == 50
    assert images.min() >= 0
    assert images.max() <= 1
    assert labels.bincount(minlength=10).min() >= 4
    every, _ = robustcls.load_data("digits", n="all")
    assert len(every) == len(robustcls.load_data("digits", n=None)[0]) > 50
    with pytest.raises(InputError, match="did you mean 'digits'"):
        robustcls.load_data("digit")


# the package


@pytest.mark.slow
def test_the_package_completes_and_is_typed_and_has_help():
    code = """
import sys, robustcls
assert set(robustcls.__all__) <= set(dir(robustcls))
assert not {"Any", "import_module", "TYPE_CHECKING"} & set(dir(robustcls))
assert "torch" not in sys.modules
import robustcls.attacks, robustcls.data
assert callable(robustcls.attack) and robustcls.attacks.__path__ and robustcls.data.__path__
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (Path(robustcls.__file__).parent / "py.typed").exists()
    for name in ("load", "load_data", "train", "evaluate", "attack", "certify", "explain", "export", "report"):
        function = getattr(robustcls, name)
        words = inspect.getdoc(function)
        for part in ("Args:", "Raises:", "Example:", "\n"):
            assert part in words, (name, part)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD:
                assert f"{parameter.name}:" in words or f"{parameter.name}," in words, (name, parameter.name)


@pytest.mark.parametrize("name", ["evaluate", "attack", "certify", "explain"])
def test_options_are_keywords_with_the_same_defaults(name):
    parameters = inspect.signature(getattr(robustcls, name)).parameters
    assert parameters["batch_size"].default == "auto"
    assert parameters["progress"].default is False
    assert parameters["seed"].default == 0
    assert all(
        parameters[option].kind is inspect.Parameter.KEYWORD_ONLY for option in ("batch_size", "progress", "seed")
    )


@pytest.mark.usefixtures("untouched")
def test_report_takes_results_and_files(model, data, tmp_path):
    result = robustcls.evaluate(model, *data, threat=f"linf:{EPS}", attacks=["fgsm"])
    result.save(tmp_path / "evaluation.json")
    page = robustcls.report(result, tmp_path / "report.html", title="Mine")
    again = robustcls.report(tmp_path / "evaluation.json", str(tmp_path / "again.html"), title="Mine")
    assert page.read_bytes() == again.read_bytes()
    both = robustcls.report([result, str(tmp_path / "evaluation.json")], tmp_path / "both.html")
    assert both.stat().st_size > page.stat().st_size
