"""Checkpoints written by common tools: each gives the same network, or an error in one line."""

import argparse
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.models.loading import build_model, read_model
from robustcls.models.transfer import initialise

ARCH, CLASSES, SIZE = "vgg11(width=0.05)", ("a", "b", "c"), (3, 8, 8)
X = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))


def net_of(classes=CLASSES, seed=5):
    torch.manual_seed(seed)
    return build(ARCH, classes=classes, input_size=SIZE).net.eval()


NET = net_of()
STATE = NET.state_dict()
ZEROS = {key: torch.zeros_like(value) for key, value in STATE.items()}


def under(prefix, state=STATE):
    return {f"{prefix}{key}": value for key, value in state.items()}


PARAMETERS = [key for key, _ in NET.named_parameters()]
AVERAGE = {key: STATE[key] for key in PARAMETERS}
RAW = {key: torch.zeros_like(value) if key in PARAMETERS else value for key, value in STATE.items()}
SAID = "is taken, not 'model', but for"


def averaged():
    average = torch.optim.swa_utils.AveragedModel(NET)
    average.update_parameters(NET)
    return average.state_dict()


LIGHTNING = {"epoch": 3, "pytorch-lightning_version": "2.5.0", "loops": {}, "optimizer_states": [], "callbacks": {}}
FILES = {  # the content of the file, and words of the note
    "module": (under("module."), ""),
    "compiled": (under("_orig_mod."), ""),
    "both": (under("module._orig_mod."), ""),
    "compiled inside": ({key.replace("0.", "0._orig_mod.", 1): value for key, value in STATE.items()}, ""),
    "lightning": ({**LIGHTNING, "state_dict": under("model."), "hyper_parameters": {"lr": 0.1}}, ""),
    "lightning, namespace": (
        {**LIGHTNING, "state_dict": under("net."), "hyper_parameters": argparse.Namespace(lr=1, data=Path("/x"))}, "",
    ),
    "lightning with a metric": (
        {"state_dict": {**under("backbone."), "acc.total": torch.ones(1), "loss.weight": torch.ones(3)}},
        "2 tensors beside it not used",
    ),
    "averaged": (averaged(), "the average of the weights"),
    "timm": ({"state_dict": ZEROS, "state_dict_ema": STATE, "args": argparse.Namespace(a=1), "metric": np.float64(0.9)},
             "'state_dict_ema' is taken, not 'state_dict'"),
    "torchvision": ({"model": ZEROS, "model_ema": averaged(), "optimizer": {"state": {0: {"step": torch.ones(1)}}}},
                    "under 'model_ema' is taken, not 'model'"),
    "ema in one": ({**under("model.", ZEROS), **under("model_ema.module.")}, "'model_ema.module.' is taken, not 'model.'"),
    "ema of parameters": ({"model": RAW, "ema": AVERAGE}, SAID),
    "ema of parameters beside": ({**under("model.", RAW), **under("ema.", AVERAGE)}, "taken, not 'model.', but for"),
    "ema of parameters and statistics": (
        {"model": RAW, "ema": {key: v for key, v in STATE.items() if not key.endswith("tracked")}},
        "'ema' is taken, not 'model'",
    ),
    "ema without dots": (
        {"state_dict": {**under("model.", RAW), "model_ema.decay": torch.ones(1),
                        **{f"model_ema.{key.replace('.', '')}": value for key, value in AVERAGE.items()}}},
        "'model_ema.' under 'state_dict', is taken, not 'model.' under 'state_dict', but for",
    ),
    "ema without dots of the whole": (
        {**under("net.", RAW), **{f"ema.net{key.replace('.', '')}": value for key, value in AVERAGE.items()}},
        "'ema.', is taken, not 'net.'",
    ),
    "ema without names": (
        {"model": RAW, "ema": {"decay": 0.9, "shadow_params": list(AVERAGE.values()), "collected_params": None}},
        "'ema.shadow_params', is taken",
    ),
    "half an ema": ({"model": STATE, "ema": dict(list(AVERAGE.items())[3:])}, "under 'ema' and is not used, since it has no"),
    "ema of another": ({"model": STATE, "ema": {key: value[:1] for key, value in AVERAGE.items()}}, "its shapes are others"),
    "some tensors": ({"model": STATE, "ema": {"shadow": [torch.ones(2)]}}, "'ema.shadow' and is not used, since it is not by"),
    "model_state_dict": ({"model_state_dict": STATE, "optimizer_state_dict": {}, "loss": 0.1}, ""),
    "params": ({"params": STATE}, ""),
    "numpy": ({"net": STATE, "acc": np.float32(93.1)}, ""),
    "half": ({key: value.half() if value.is_floating_point() else value for key, value in STATE.items()}, ""),
    "profiled": ({**STATE, "total_ops": torch.ones(1), "0.total_params": torch.ones(1)}, ""),
    "without counters": ({key: v for key, v in STATE.items() if not key.endswith("num_batches_tracked")}, ""),
}  # fmt: skip


def load(content, tmp_path, arch=ARCH, **options):
    torch.save(content, tmp_path / "w.pt")
    source = read_model(str(tmp_path / "w.pt"))
    return build_model(source, arch=arch, classes=CLASSES, input_size=SIZE, **options)


@pytest.mark.parametrize("kind", FILES)
def test_the_weights_are_found(kind, tmp_path):
    content, words = FILES[kind]
    loaded = load(content, tmp_path, mean=[0.0])
    torch.testing.assert_close(loaded.model(X), NET(X), atol=2e-3 if kind == "half" else 0, rtol=0)
    assert (len(loaded.notes) > 0) == bool(words)
    assert words in " ".join(loaded.notes)


NORMALISED = {
    "robustbench": {"state_dict": {**under("module."), "module.mu": torch.full((1, 3, 1, 1), 0.4),
                                   "module.sigma": torch.full((1, 3, 1, 1), 0.2)}},
    "madry": {"model": {**under("module.model."), **under("module.attacker.model."),
                        "module.normalizer.new_mean": torch.full((3, 1, 1), 0.4),
                        "module.normalizer.new_std": torch.full((3, 1, 1), 0.2)}},
    "sequential": {**under("1."), "0.mean": torch.full((3,), 0.4), "0.std": torch.full((3,), 0.2)},
}  # fmt: skip


@pytest.mark.parametrize("kind", NORMALISED)
def test_a_normalisation_beside_the_weights_is_put_in_front_and_said(kind, tmp_path):
    loaded = load(NORMALISED[kind], tmp_path)
    torch.testing.assert_close(loaded.model(X), NET((X - 0.4) / 0.2))
    assert "put in front" in loaded.notes[0]
    assert not any("assumed to take [0, 1] pixels" in note for note in loaded.notes)
    loaded = load(NORMALISED[kind], tmp_path, mean=[0.5], std=[0.5])
    torch.testing.assert_close(loaded.model(X), NET((X - 0.5) / 0.5))
    assert "left out for `mean` and `std`" in loaded.notes[0]


def test_a_normalisation_of_the_architecture_stays_inside(tmp_path, monkeypatch):
    class Own(nn.Module):
        def __init__(self, classes, size):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
            self.register_buffer("mean", torch.zeros(1))
            self.register_buffer("std", torch.ones(1))

        def forward(self, x):
            return self.net((x - self.mean) / self.std)

    monkeypatch.setitem(sys.modules, "own_normaliser", ModuleType("own_normaliser"))
    sys.modules["own_normaliser"].net = Own
    net = Own(3, SIZE)
    net.mean.fill_(0.3)
    loaded = load(
        {f"model.{key}": value for key, value in net.state_dict().items()}, tmp_path, arch="own_normaliser:net"
    )
    torch.testing.assert_close(loaded.model(X), net(X), rtol=1e-6, atol=1e-6)
    assert not loaded.model.normalises


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({f"encoder.layers.{key}x": value for key, value in STATE.items()}, r"with the prefix 'encoder\.layers\.'"),
        (
            {f"{'front' if key.startswith('0') else 'back'}.{key}": value for key, value in STATE.items()},
            "under several prefixes, 'back.' and 'front.'",
        ),
        ({**STATE, "head.weight": torch.ones(2)}, "has a weight 'head.weight' that `arch` lacks"),
        ({"optimizer": {"state": {0: torch.ones(2)}}}, "holds no state dict"),
        ({"net": NET}, "it holds more than tensors .*Sequential.* save model.state_dict"),
    ],
)
def test_what_does_not_fit_names_the_prefix_in_one_line(content, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        load(content, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_layer_called_as_an_average_is_no_average(tmp_path, monkeypatch):
    class Pooled(nn.Module):
        def __init__(self, classes, size):
            super().__init__()
            self.norm, self.avg = nn.BatchNorm2d(3), nn.ModuleDict({"norm": nn.BatchNorm2d(3)})
            self.last = nn.Linear(192, classes)

        def forward(self, x):
            return self.last(self.avg["norm"](self.norm(x)).flatten(1))

    monkeypatch.setitem(sys.modules, "own_average", ModuleType("own_average"))
    sys.modules["own_average"].net = Pooled
    net = Pooled(3, SIZE).eval()
    loaded = load(net.state_dict(), tmp_path, arch="own_average:net", mean=[0.0])
    torch.testing.assert_close(loaded.model(X), net(X), rtol=1e-6, atol=1e-6)
    assert loaded.notes == []


def test_a_pointer_of_git_lfs(tmp_path):
    (tmp_path / "w.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", encoding="utf-8")
    with pytest.raises(InputError, match="git lfs pull"):
        read_model(str(tmp_path / "w.pt"))


def test_weights_of_other_classes_keep_their_outputs(tmp_path):
    loaded = load(net_of("abcdefg").state_dict(), tmp_path)
    assert loaded.model(X).shape == (2, 7)
    assert loaded.classes == ()


# robustcls.load


def test_python_loads_what_model_takes(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "own_models", ModuleType("own_models"))
    sys.modules["own_models"].make = net_of
    torch.save({"state_dict": under("model.")}, tmp_path / "w.pt")
    model = robustcls.load(tmp_path / "w.pt", arch=ARCH, input_size=SIZE, classes=CLASSES, mean=[0.5], std=[0.25])
    torch.testing.assert_close(model(X), NET((X - 0.5) / 0.25), rtol=1e-6, atol=1e-6)
    assert (model.classes, model.training) == (CLASSES, False)
    torch.testing.assert_close(robustcls.load("own_models:make")(X), NET(X), rtol=1e-6, atol=1e-6)
    model = robustcls.load("own_models:make", input_size=SIZE, mean=[0.5], std=[0.25], classes=CLASSES)
    torch.testing.assert_close(model(X), NET((X - 0.5) / 0.25), rtol=1e-6, atol=1e-6)
    for options, words in (
        ({"input_size": SIZE}, "name it with `arch`, such as"),
        ({"arch": ARCH}, "give `input_size`"),
        ({"arch": ARCH, "input_size": SIZE, "classes": "ab"}, "gives 3 outputs, 2 classes were named"),
    ):
        with pytest.raises(InputError, match=words):
            robustcls.load(tmp_path / "w.pt", **options)


@pytest.fixture
def own_models(monkeypatch):
    module = ModuleType("own_models")
    monkeypatch.setitem(sys.modules, "own_models", module)
    return module


def test_python_hears_every_note(tmp_path):
    torch.save({"state_dict": ZEROS, "state_dict_ema": STATE}, tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="w.pt") as caught:
        robustcls.load(tmp_path / "w.pt", arch=ARCH, input_size=SIZE)
    said = " ".join(str(one.message) for one in caught)
    assert "'state_dict_ema' is taken, not 'state_dict'" in said
    assert "assumed to take [0, 1] pixels; give `mean` and `std`" in said
    assert caught[0].filename == __file__
    save_checkpoint(tmp_path / "c.pt", build(ARCH, classes=CLASSES, input_size=SIZE), {})
    with pytest.warns(UserWarning, match="knows its own: `mean`, `std` not used"):
        robustcls.load(tmp_path / "c.pt", mean=0.4, std=0.2)


def test_python_says_nothing_where_nothing_was_assumed(tmp_path, own_models, recwarn):
    save_checkpoint(tmp_path / "c.pt", build(ARCH, classes=CLASSES, input_size=SIZE), {})
    assert robustcls.load(tmp_path / "c.pt", classes=CLASSES, input_size=SIZE).classes == CLASSES
    own_models.net = NET
    assert robustcls.load("own_models:net", classes=["x", "y", "z"]).classes == ("x", "y", "z")
    assert robustcls.load("own_models:net", classes=CLASSES, input_size=SIZE).classes == CLASSES
    assert not hasattr(NET, "classes")
    assert not recwarn


def test_python_refuses_what_contradicts_the_model(tmp_path, own_models):
    save_checkpoint(tmp_path / "c.pt", build(ARCH, classes=CLASSES, input_size=SIZE), {})
    own_models.net = NET
    for spec, options, words in (
        (tmp_path / "c.pt", {"classes": "bac"}, "has 'a' where classes say 'b': leave classes out"),
        (tmp_path / "c.pt", {"classes": "ab"}, "has 'c' where classes say 'none'"),
        (
            tmp_path / "c.pt",
            {"input_size": (3, 32, 32)},
            r"takes images of \(3, 8, 8\), not of input_size=\(3, 32, 32\)",
        ),
        ("own_models:net", {"classes": "ab"}, "3 outputs, not 2: if that is wrong, give input_size"),
        ("own_models:net", {"classes": "ab", "input_size": SIZE}, "3 outputs, 2 classes were named"),
        ("own_models:net", {"mean": "x"}, "mean='x' is not a list of numbers"),
        ("own_models:net", {"mean": 104, "std": 54, "input_size": SIZE}, "in grey levels"),
    ):
        with pytest.raises(InputError, match=words):
            robustcls.load(spec, **options)


def test_python_takes_one_number_for_all_channels(tmp_path):
    torch.save(STATE, tmp_path / "w.pt")
    for mean, std in (
        (0.5, 0.25),
        (torch.tensor(0.5), np.float32(0.25)),
        (np.full(3, 0.5), torch.full((3, 1, 1), 0.25)),
    ):
        model = robustcls.load(tmp_path / "w.pt", arch=ARCH, input_size=SIZE, mean=mean, std=std)
        torch.testing.assert_close(model(X), NET((X - 0.5) / 0.25), rtol=1e-6, atol=1e-6)


def make(classes, size):
    return build(ARCH, classes=range(classes), input_size=size).net


def test_python_takes_the_function_or_the_network_itself_for_the_architecture(tmp_path, own_models):
    torch.save({"model": STATE}, tmp_path / "w.pt")
    own_models.net = make
    for arch in (make, make(3, SIZE), "own_models:net"):
        model = robustcls.load(tmp_path / "w.pt", arch=arch, input_size=SIZE, mean=0.0)
        torch.testing.assert_close(model(X), NET(X), rtol=1e-6, atol=1e-6)
    torch.save({"model": net_of("abcdefg").state_dict()}, tmp_path / "seven.pt")
    assert robustcls.load(tmp_path / "seven.pt", arch=make, input_size=SIZE, mean=0.0)(X).shape == (2, 7)
    ours = build("own_models:net", classes=CLASSES, input_size=SIZE)
    save_checkpoint(tmp_path / "c.pt", ours, {})
    for arch in (make, make(3, SIZE)):
        model = robustcls.load(tmp_path / "c.pt", arch=arch)
        torch.testing.assert_close(model(X), ours.eval()(X), rtol=1e-6, atol=1e-6)
        assert model.arch == "own_models:net"
    with pytest.raises(InputError, match="say so with `arch='own_models:net'`"):
        robustcls.load(tmp_path / "c.pt")


def takes_one(num_classes):
    return None


def raises(num_classes, input_size):
    raise ValueError("no such width")


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (takes_one, r"failed: TypeError: takes_one\(\) takes 1 positional argument"),
        (raises, "failed: ValueError: no such width"),
        (lambda num_classes, input_size: None, "gave NoneType"),
        (lambda num_classes, input_size: "vgg", "gave str"),
    ],
)
def test_an_architecture_of_ones_own_that_fails_names_itself_and_its_signature(function, words, own_models, tmp_path):
    own_models.make = function
    with pytest.raises(InputError, match=f"`arch=own_models:make` {words}") as caught:
        build("own_models:make", classes=CLASSES, input_size=SIZE)
    assert "(num_classes, input_size)" in str(caught.value)
    assert "\n" not in str(caught.value)
    torch.save(STATE, tmp_path / "w.pt")
    with pytest.raises(InputError, match=f"`arch=.*` {words}"):
        robustcls.load(tmp_path / "w.pt", arch=function, input_size=SIZE)


# --init


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind.startswith("ema ") and kind != "ema of another"])
def test_training_begins_from_the_average_too(kind, tmp_path):
    torch.save(FILES[kind][0], tmp_path / "w.pt")
    model = build(ARCH, classes=CLASSES, input_size=SIZE).eval()
    assert "average of the weights" in initialise(model, str(tmp_path / "w.pt"))
    torch.testing.assert_close(model(X), NET(X), rtol=1e-6, atol=1e-6)


def test_an_average_with_a_head_of_other_classes_is_taken_for_the_backbone(tmp_path):
    torch.save({"model": RAW, "ema": AVERAGE}, tmp_path / "w.pt")
    model = build(ARCH, classes="abcde", input_size=SIZE)
    assert SAID in initialise(model, str(tmp_path / "w.pt"))
    assert torch.equal(model.net.state_dict()[PARAMETERS[0]], STATE[PARAMETERS[0]])


def head(model):
    return [value for key, value in model.net.state_dict().items() if value.ndim and len(value) == len(model.classes)][
        -2:
    ]


@pytest.mark.parametrize("own", ["linear", "7-relu-K"])
def test_the_head_is_put_in_the_order_of_the_data(own, tmp_path):
    source = build(ARCH, classes=("cat", "dog", "owl"), input_size=SIZE, head=own)
    save_checkpoint(tmp_path / "c.pt", source, {})
    model = build(ARCH, classes=("owl", "cat", "dog"), input_size=SIZE, head=own)
    assert "rows put in the order of the data's classes" in initialise(model, str(tmp_path / "c.pt"))
    torch.testing.assert_close(model.eval()(X), source.eval()(X)[:, [2, 0, 1]], rtol=1e-6, atol=1e-6)


def test_a_head_of_other_classes_begins_anew(tmp_path):
    source = build(ARCH, classes=("cat", "dog", "owl"), input_size=SIZE)
    save_checkpoint(tmp_path / "c.pt", source, {})
    model = build(ARCH, classes=("cat", "cow", "dog"), input_size=SIZE)
    before = [value.clone() for value in head(model)]
    assert "new head, since its classes are others (cat ...)" in initialise(model, str(tmp_path / "c.pt"))
    assert all(torch.equal(one, other) for one, other in zip(head(model), before, strict=True))
