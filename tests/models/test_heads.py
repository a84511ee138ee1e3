"""Finding the head of a network, and replacing it with a small network."""

import pytest
import torch
from torch import nn

import robustcls
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build, save_checkpoint
from robustcls.models.heads import Head, drop_before_head, head_of

CLASSES, SMALL = ("a", "b", "c"), "vgg16(width=0.05)"


def make(arch=SMALL, head="linear", input_size=(3, 8, 8)):
    return build(arch, classes=CLASSES, input_size=input_size, head=head)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        (SMALL, "3"),
        ("resnet18(width=0.125)", "linear"),
        ("torchvision/resnet18", "fc"),
        ("torchvision/squeezenet1_1", "classifier.1"),
        ("torchvision/mobilenet_v3_small", "classifier.3"),
        ("torchvision/googlenet", "fc"),
        ("torchvision/vit_b_16(image_size=32)", "heads.head"),
        ("timm/test_vit(img_size=32)", "head"),
        ("timm/test_convnext", "head.fc"),
    ],
)
def test_the_head_is_found(arch, name):
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    net = make(arch, input_size=(3, 32, 32)).net
    found, module = head_of(net)
    assert found == name
    assert module is net.get_submodule(name)
    assert head_of(net, 3) == (found, module)


def test_a_network_without_one_is_refused():
    for net, classes in ((nn.Flatten(), None), (nn.Conv2d(3, 3, 3), 3), (nn.Linear(4, 5), 3)):
        with pytest.raises(InputError, match="no linear layer or 1x1 convolution") as caught:
            head_of(net, classes)
        assert "\n" not in str(caught.value)
    assert head_of(nn.Linear(4, 3))[0] == ""


@pytest.mark.parametrize(
    ("head", "layers"),
    [
        ("7-relu-K", "Linear(26, 7) ReLU Linear(7, 3)"),
        ("7-relu-5-silu-K", "Linear(26, 7) ReLU Linear(7, 5) SiLU Linear(5, 3)"),
        ("7-softplus-dropout0.5-K", "Linear(26, 7) Softplus Dropout(0.5) Linear(7, 3)"),
        ("7-relu-dropout.25-5-relu-K", "Linear(26, 7) ReLU Dropout(0.25) Linear(7, 5) ReLU Linear(5, 3)"),
    ],
)
def test_a_head_of_several_layers_comes_back_from_a_checkpoint(head, layers, tmp_path):
    model = make(head=head).eval()
    assert head_of(model.net) == ("3", model.net[3])
    assert isinstance(model.net[3], Head)
    assert " ".join(map(describe, model.net[3])) == layers
    save_checkpoint(tmp_path / "ckpt.pt", model, {})
    again = robustcls.load(tmp_path / "ckpt.pt")
    x = torch.rand(2, 3, 8, 8)
    assert (again.arch, again.head) == (SMALL, head)
    assert torch.equal(again(x), model(x))


def describe(layer):
    if isinstance(layer, nn.Linear):
        return f"Linear({layer.in_features}, {layer.out_features})"
    return f"Dropout({layer.p})" if isinstance(layer, nn.Dropout) else type(layer).__name__


def test_a_network_that_ends_on_a_convolution_gets_convolutions():
    model = make("torchvision/squeezenet1_1", "7-relu-K", (3, 32, 32))
    assert [type(layer) for layer in head_of(model.net)[1]] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_checkpoints_from_before_heads_load(tmp_path):
    model = make().eval()
    save_checkpoint(tmp_path / "ckpt.pt", model, {})
    content = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    assert content.pop("head") == "linear"
    torch.save(content, tmp_path / "ckpt.pt")
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(robustcls.load(tmp_path / "ckpt.pt")(x), model(x))


@pytest.mark.parametrize(
    "head", ["", "K", "512", "512-K", "relu-K", "0-relu-K", "7-relu", "7-gelu-K", "7-relu-dropout2-K", "7-relu-k", "-K"]
)
def test_heads_that_are_none(head):
    with pytest.raises(InputError, match="give linear, or hidden layers and K, such as 512-relu-dropout0.5-K") as no:
        make(head=head)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize("head", ["linear", "8-relu-K"])
@pytest.mark.parametrize("arch", [SMALL, "resnet18(width=0.125)", "torchvision/squeezenet1_1"])
def test_dropout_sets_a_share_of_what_the_head_sees_to_0_in_train_mode_alone(arch, head):
    size = (3, 32, 32)
    model, plain = make(arch, head, size), make(arch, head, size)
    plain.load_state_dict(model.state_dict())
    drop_before_head(model, 0.3)
    assert model.state_dict().keys() == plain.state_dict().keys()
    x, seen = torch.rand(16, *size), []
    inside = head_of(model.net, 3)[1]
    first = inside[0] if isinstance(inside, Head) else inside
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head_of(plain.net, 3)[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert torch.equal(seen[0], seen[1])
    frozen_backbone(model.train(), inside)
    frozen_backbone(plain.train(), head_of(plain.net, 3)[1])
    torch.manual_seed(1)
    model(x)
    plain(x)
    dropped, whole = seen[2:]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.7)
    assert 0.2 < 1 - kept[whole != 0].float().mean() < 0.4


def frozen_backbone(model, head):
    """Put all modules outside the head in eval mode, so that they neither draw random numbers nor update statistics."""
    for module in set(model.modules()) - set(head.modules()):
        module.training = False


class Unused(nn.Module):
    """A model that uses the weights of its head without calling it."""

    def __init__(self, num_classes, input_size):
        super().__init__()
        self.head = nn.Linear(192, num_classes)

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.head.weight)


def test_dropout_that_would_do_nothing_is_refused():
    with pytest.raises(InputError, match="`dropout` comes before the head, and .*Unused never calls its own, 'head'"):
        drop_before_head(make(Unused), 0.5)
