"""Initial weights, frozen layers, and parameter groups of the optimizer."""

import copy

import pytest
import torch
from torch import nn

from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.models.heads import head_of
from robustcls.models.transfer import freeze, initialise, keep_frozen_in_eval, parameter_groups

SMALL, ZOO = "vgg16(width=0.05)", "torchvision/squeezenet1_1"
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def make(arch=SMALL, classes="abc", input_size=(3, 8, 8), head="linear"):
    return build(arch, classes=classes, input_size=input_size, head=head, mean=[0.1], std=[0.7])


def same(model, other, keys=None):
    state, expected = model.net.state_dict(), other.net.state_dict()
    return [key for key in (keys or expected) if key in state and torch.equal(state[key], expected[key])]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Make an empty torch.hub cache, forbid downloads, and return the folder for checkpoints."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("ROBUSTCLS_DOWNLOAD", raising=False)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def pretrained(home):
    from torchvision import models

    net = models.squeezenet1_1()
    torch.save(net.state_dict(), home / "squeezenet1_1-b8a52dc0.pth")
    return net


# Initial weights


@pytest.mark.parametrize(("spec", "channels"), [(ZOO, 3), (f"{ZOO}(size=48)", 3), (ZOO, 1)])
def test_imagenet_gives_the_backbone_and_its_normalisation(spec, channels, pretrained):
    model = make(spec, input_size=(channels, 32, 32))
    head = copy.deepcopy(head_of(model.net)[1])
    assert initialise(model, "imagenet") == "imagenet: 50 of 52 tensors taken, new head"
    state, theirs = model.net.state_dict(), pretrained.state_dict()
    assert all(torch.equal(state[key], theirs[key]) for key in state if not key.startswith("classifier"))
    assert torch.equal(head_of(model.net)[1].weight, head.weight)
    mean, std = IMAGENET if channels == 3 else ([0.1], [0.7])
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    assert model.std.flatten().tolist() == pytest.approx(std)
    assert model(torch.rand(2, channels, 32, 32)).shape == (2, 3)


def test_a_thousand_classes_take_the_head_too(pretrained):
    model = make(ZOO, classes=[str(i) for i in range(1000)], input_size=(3, 32, 32))
    assert initialise(model, "imagenet") == "imagenet: 52 of 52 tensors taken, with its head"
    assert torch.equal(head_of(model.net)[1].weight, pretrained.classifier[1].weight)


def test_imagenet_needs_a_zoo_and_weights_that_are_here(home):
    with pytest.raises(InputError, match=r"vgg16\(width=0.05\) has no ImageNet weights: take a torchvision/"):
        initialise(make(), "imagenet")
    with pytest.raises(InputError, match="not on this machine: set ROBUSTCLS_DOWNLOAD=1"):
        initialise(make(ZOO, input_size=(3, 32, 32)), "imagenet")


@pytest.mark.parametrize("kind", ["checkpoint", "pt", "safetensors"])
@pytest.mark.parametrize("classes", ["abc", "xyzw"])
def test_files_give_what_fits(kind, classes, tmp_path):
    source, model = make(), make(classes=classes)
    source.mean, source.std = torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1) + 0.5
    path = tmp_path / {"checkpoint": "ckpt.pt", "pt": "w.pt", "safetensors": "w.safetensors"}[kind]
    if kind == "checkpoint":
        save_checkpoint(path, source, {})
    elif kind == "pt":
        torch.save({"state_dict": source.net.state_dict()}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(source.net.state_dict(), path)
    said = initialise(model, str(path))
    taken = 80 if classes == "abc" else 78
    head = "with its head" if classes == "abc" else "new head"
    if classes == "abc" and kind != "checkpoint":  # a state dict has no class names
        head += ", its outputs taken in the data's order"
    assert said == f"{path}: {taken} of 80 tensors taken, {head}"
    assert len(same(model, source)) == taken
    assert torch.equal(model.mean, source.mean) == torch.equal(model.std, source.std) == (kind == "checkpoint")


def test_another_head_begins_anew(tmp_path):
    source, model = make(), make(head="7-relu-K")
    torch.save(source.net.state_dict(), tmp_path / "w.pt")
    assert initialise(model, str(tmp_path / "w.pt")).endswith("78 of 82 tensors taken, new head")
    assert len(same(model, source)) == 78


def test_what_does_not_fit_is_named(tmp_path):
    deep, wide, path = make("vgg19(width=0.05)"), make("vgg16(width=0.1)"), str(tmp_path / "w.pt")
    torch.save(deep.net.state_dict(), path)
    said = initialise(make("vgg13(width=0.05)"), path)
    assert "of the backbone not, such as 0." in said
    assert "without a place here, such as 0." in said
    torch.save(wide.net.state_dict(), path)
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        InputError, match=r"13 of 78 tensors fit, and '0\.0\.weight', here \(3, 3, 3, 3\), is \(6, 3, 3, 3\) there"
    ) as caught:
        initialise(model, path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"'conv1\.weight', here .*, is not there: give its `arch`"):
        initialise(make("resnet18(width=0.125)"), path)
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)


def test_files_that_are_none(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    torch.save({"format": "robustcls/checkpoint/1"}, tmp_path / "ckpt.pt")
    for name, words in (("none.pt", "no file"), ("w.pt", "holds no state dict"), ("ckpt.pt", "lacks 'state_dict'")):
        with pytest.raises(InputError, match=words):
            initialise(make(), str(tmp_path / name))


# Frozen layers


def step(model, frozen):
    model.train()
    keep_frozen_in_eval(frozen)
    optimizer = torch.optim.SGD(parameter_groups(model, lr=0.1, weight_decay=0.1), lr=0.1)
    model(torch.rand(4, *model.input_size)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("arch", [SMALL, "resnet18(width=0.125)", "preact_resnet18(width=0.125)"])
@pytest.mark.parametrize("head", ["linear", "7-relu-K"])
def test_a_frozen_backbone_keeps_weights_and_statistics(arch, head, tmp_path):
    model = make(arch, head=head)
    before = copy.deepcopy(model)
    frozen = freeze(model, "backbone")
    step(model, frozen)
    name, _ = head_of(model.net)
    assert {key for key in before.net.state_dict() if key.startswith(f"{name}.")} == set(before.net.state_dict()) - set(
        same(model, before)
    )
    assert model.net.training
    assert head_of(model.net)[1].training


def test_the_first_layers_alone_can_be_frozen():
    model = make()
    before = copy.deepcopy(model)
    frozen = freeze(model, "4")  # two convolutions, each with a BatchNorm
    step(model, frozen)
    kept = [f"0.{at}." for at in (0, 1, 3, 4)]
    assert {key.rsplit(".", 1)[0] + "." for key in same(model, before)} == set(kept)
    assert freeze(make(), "none") == freeze(make(), "0") == []
    assert len(freeze(make(), "26")) == 26


def test_tensors_that_belong_to_no_leaf_are_frozen_without_what_lies_beside_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 192))
            self.body, self.drop, self.head = nn.Linear(192, 8), nn.Dropout(0.5), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.drop(self.body(x.flatten(1) + self.token)))

    model = make()
    model.net = Net()
    frozen = freeze(model.train(), "backbone")
    keep_frozen_in_eval(frozen)
    assert [name for name, p in model.net.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert model.net.drop.training


@pytest.mark.parametrize("what", ["27", "999999999999", "-1", "1.5", "head", "", "²"])
def test_what_cannot_be_frozen(what):
    with pytest.raises(InputError, match="give none, backbone or a number of layers, 26 at most") as caught:
        freeze(make(), what)
    assert "\n" not in str(caught.value)


# Parameter groups


def names(model, group):
    of = {id(parameter): name for name, parameter in model.net.named_parameters()}
    return [of[id(parameter)] for parameter in group["params"]]


def test_weights_of_layers_decay_and_nothing_else_does():
    model = make("resnet18(width=0.125)")
    decayed, rest = parameter_groups(model, lr=0.2, weight_decay=0.3)
    assert names(model, decayed) == [
        name for name, p in model.net.named_parameters() if p.ndim > 1
    ]  # the weights of convolutions and of the linear layer
    assert names(model, rest) == [name for name, p in model.net.named_parameters() if p.ndim == 1]
    for group, decay in ((decayed, 0.3), (rest, 0.0)):
        assert {key: group[key] for key in group if key != "params"} == {
            "weight_decay": decay,
            "lr": 0.2,
            "lr_scale": 1.0,
        }


def test_the_backbone_may_learn_more_slowly():
    model = make(head="7-relu-K")
    groups = parameter_groups(model, lr=0.2, weight_decay=0.3, backbone_lr=0.1)
    assert [(group["lr_scale"], group["weight_decay"]) for group in groups] == [(0.1, 0.3), (0.1, 0), (1, 0.3), (1, 0)]
    assert [group["lr"] for group in groups] == pytest.approx([0.02, 0.02, 0.2, 0.2])
    assert names(model, groups[2]) == ["3.0.weight", "3.2.weight"]
    assert names(model, groups[3]) == ["3.0.bias", "3.2.bias"]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_frozen_parameters_and_empty_groups_are_left_out():
    model = make()
    freeze(model, "backbone")
    for backbone_lr in (1.0, 0.5):
        groups = parameter_groups(model, lr=0.1, weight_decay=0.1, backbone_lr=backbone_lr)
        assert [names(model, group) for group in groups] == [["3.weight"], ["3.bias"]]
        assert [group["lr_scale"] for group in groups] == [1.0, 1.0]


@pytest.mark.parametrize("backbone_lr", [0.0, -1.0, float("inf"), float("nan")])
def test_factors_that_are_none(backbone_lr):
    with pytest.raises(InputError, match="give a number above 0"):
        parameter_groups(make(), lr=0.1, weight_decay=0.1, backbone_lr=backbone_lr)


def test_a_network_without_a_head_still_has_groups():
    model = make()
    model.net = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert len(parameter_groups(model, lr=0.1, weight_decay=0.1)) == 2
