"""Every line of the Python section of the design, on a module of the user's own that is left as it was."""

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

EPS = 0.1


class Net(nn.Module):
    """Tells modes apart by batch norm and dropout, and keeps a count in a buffer."""

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
    """In train mode, with gradients left behind and one parameter that takes none."""
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
    """All that a call must leave as it was: of the module, of random streams, of global settings."""
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
    """Checks at the end of the test that the model, and the process, are as they were."""
    before = state(model)
    yield
    assert_same(state(model), before)


def my_attack(model, x, y, threat, *, steps=3, generator=None):
    """Sign steps from the image itself."""
    from robustcls.core.gradients import input_gradient

    x_adv = x
    for _ in range(steps):
        x_adv = threat.project(x_adv + threat.eps / steps * threat.steepest(input_gradient(model, x_adv, y)), x)
    return x_adv


def without_generator(model, x, y, threat):
    return my_attack(model, x, y, threat)


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
    loader = DataLoader(dataset, batch_size=7, generator=torch.Generator())  # it draws a seed whenever it is read
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
    """An attack that says what it was asked: the target as a grey level."""
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
    assert torch.equal(kept[~aimed], images[~aimed]), "what is of that class already is left as it is"
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
    with pytest.raises(InputError, match="square.* cannot aim at a class: leave out `target`"):
        robustcls.attack(model, *data, "linf:0.1", "square(queries=10)", target=3)


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
    for name in ("load", "load_data", "evaluate", "attack", "explain", "report"):
        function = getattr(robustcls, name)
        words = inspect.getdoc(function)
        for part in ("Args:", "Raises:", "Example:", "\n"):
            assert part in words, (name, part)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind is not parameter.VAR_KEYWORD:
                assert f"{parameter.name}:" in words or f"{parameter.name}," in words, (name, parameter.name)


@pytest.mark.parametrize("name", ["evaluate", "attack", "explain"])
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
