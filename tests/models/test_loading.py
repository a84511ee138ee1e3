"""Other ways to name a model: state dicts, .safetensors, and code."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.models.loading import build_model, read_model

ARCH, CLASSES, SIZE = "vgg16(width=0.05)", ("a", "b"), (1, 8, 8)


@pytest.fixture
def net():
    torch.manual_seed(5)
    return build(ARCH, classes=CLASSES, input_size=SIZE).net.eval()


def load(spec, arch=ARCH, classes=CLASSES, **options):
    return build_model(read_model(str(spec)), arch=arch, classes=classes, input_size=SIZE, **options)


WRAPPERS = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "net": lambda state: {"net": state, "acc": 93.1},
    "two deep": lambda state: {"model": {"state_dict": state}},
    "prefixed": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "prefixed inside": lambda state: {"net": {f"module.{name}": tensor for name, tensor in state.items()}},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_state_dicts_are_found(wrapper, net, tmp_path):
    torch.save(WRAPPERS[wrapper](net.state_dict()), tmp_path / "w.pt")
    loaded = load(tmp_path / "w.pt", mean=[0.5], std=[0.25])
    x = torch.rand(3, *SIZE)
    torch.testing.assert_close(loaded.model(x), net((x - 0.5) / 0.25), rtol=1e-6, atol=1e-6)
    assert not loaded.model.training
    assert (loaded.name, loaded.classes, loaded.notes) == ("w.pt", (), [])  # a state dict has no class names


def test_without_a_normalisation_none_is_assumed_and_said(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    loaded = load(tmp_path / "w.pt")
    x = torch.rand(3, *SIZE)
    torch.testing.assert_close(loaded.model(x), net(x), rtol=1e-6, atol=1e-6)
    assert "`mean`" in loaded.notes[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arch": None}, "name it with `arch`"),
        (
            {"arch": "vgg16(width=0.1)"},
            r"weight '0\.0\.weight' is \(3, 1, 3, 3\), the architecture wants \(6, 1, 3, 3\)",
        ),
        ({"arch": "vgg17"}, "did you mean 'vgg1"),
        ({"mean": [0.1, 0.2]}, "mean has 2 values for 1 channels"),
        ({"std": [0.0]}, "not positive"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(options, words, net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path / "w.pt", **options)
    assert "\n" not in str(caught.value)


def test_weights_too_few_too_many_or_none(net, tmp_path):
    state = net.state_dict()
    torch.save({**state, "head.weight": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"'head\.weight' that `arch` lacks"):
        load(tmp_path / "w.pt")
    torch.save({name: tensor for name, tensor in state.items() if name != "3.bias"}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"no weight '3\.bias'"):
        load(tmp_path / "w.pt")
    for nothing in ({}, [1, 2], {"epoch": 3}, torch.zeros(2)):
        torch.save(nothing, tmp_path / "w.pt")
        with pytest.raises(InputError, match="holds no state dict"):
            load(tmp_path / "w.pt")


def test_a_checkpoint_knows_its_own_architecture(net, tmp_path):
    folder = tmp_path / "pgd"
    model = build(ARCH, classes=CLASSES, input_size=SIZE)
    save_checkpoint(folder / "ckpt.pt", model, {"data": "digits"})
    source = read_model(str(folder / "ckpt.pt"))
    assert source.meta == {"data": "digits"}
    loaded = build_model(source, arch="vgg16", classes=(), input_size=(3, 32, 32), mean=[0.1])
    assert loaded.name == "pgd/ckpt.pt"  # the name tells which run it is
    assert loaded.model.arch == ARCH
    assert "`arch`, `mean` not used" in loaded.notes[0]


def test_safetensors_that_are_not_installed_name_the_command(net, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "w.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(InputError, match=r"pip install 'robustcls\[safetensors\]'"):
        load(tmp_path / "w.safetensors")


def test_safetensors(net, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(net.state_dict(), tmp_path / "w.safetensors")
    x = torch.rand(3, *SIZE)
    torch.testing.assert_close(load(tmp_path / "w.safetensors").model(x), net(x), rtol=1e-6, atol=1e-6)
    (tmp_path / "w.safetensors").write_bytes(b"12")
    with pytest.raises(InputError, match="truncated or damaged"):
        load(tmp_path / "w.safetensors")


CODE = """
from torch import nn

class Net(nn.Module):
    classes = ("x", "y")

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

    def forward(self, x):
        return self.net(x)

def make():
    return Net()

def needs(name):
    return Net()

def fails():
    raise RuntimeError("no weights\\nhere")

ready = Net()
number = lambda: 7
constant = 8
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    name = f"nets_of_{tmp_path.name.replace('-', '_')}"
    Path(tmp_path / f"{name}.py").write_text(CODE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("attribute", ["Net", "make", "ready"])
def test_code_may_name_a_class_a_function_or_a_module(attribute, code):
    loaded = load(f"{code}:{attribute}", arch=None)
    assert isinstance(loaded.model, nn.Module)
    assert loaded.model(torch.rand(2, *SIZE)).shape == (2, 2)
    assert (loaded.name, tuple(loaded.classes)) == (f"{code}:{attribute}", ("x", "y"))
    assert (attribute == "ready") == (loaded.model is sys.modules[code].ready)


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("number", r"gave int: it must return a torch\.nn\.Module"),
        ("constant", "not callable"),
        ("nothing", "has no 'nothing'"),
        ("needs", "failed: TypeError: .*'name'"),
        ("fails", "failed: RuntimeError: no weights here"),
    ],
)
def test_code_that_gives_no_model(attribute, words, code):
    with pytest.raises(InputError, match=words) as caught:
        load(f"{code}:{attribute}")
    assert "\n" not in str(caught.value)


def test_a_module_that_is_missing_or_broken(code, tmp_path):
    with pytest.raises(InputError, match="no module 'no_such_module_here'"):
        load("no_such_module_here:make")
    Path(tmp_path / f"{code}_broken.py").write_text("import no_such_module_there\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"ModuleNotFoundError.*no_such_module_there"):
        load(f"{code}_broken:make")
