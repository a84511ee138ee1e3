"""The structure of VGG, and the image sizes that it accepts."""

import pytest
import torch
from torch import nn

from robustcls.core.errors import InputError
from robustcls.models.architectures.vgg import vgg11, vgg13, vgg16, vgg19
from robustcls.models.checkpoint import build

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def kinds(net, kind):
    return [module for module in net.modules() if isinstance(module, kind)]


def test_thirteen_convolutions_with_batch_norm_and_one_linear_layer():
    net = vgg16(10, (3, 32, 32))
    convolutions, norms, linear = kinds(net, nn.Conv2d), kinds(net, nn.BatchNorm2d), kinds(net, nn.Linear)
    assert [conv.out_channels for conv in convolutions] == [width for block in BLOCKS for width in block]
    assert [norm.num_features for norm in norms] == [conv.out_channels for conv in convolutions]
    assert all(conv.kernel_size == (3, 3) and conv.padding == (1, 1) and conv.bias is None for conv in convolutions)
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(512, 10)]
    assert len(kinds(net, nn.MaxPool2d)) == 5
    # 9 x (3x64 + 64x64 + 64x128 + 128x128 + 128x256 + 2 x 256x256 + 256x512 + 5 x 512x512) = 14,710,464 in convolutions,
    # 2 x 4,224 in BatchNorm, 512 x 10 + 10 in the linear layer.
    assert sum(parameter.numel() for parameter in net.parameters()) == 14_710_464 + 8_448 + 5_130


@pytest.mark.parametrize(("vgg", "convolutions"), [(vgg11, 8), (vgg13, 10), (vgg16, 13), (vgg19, 16)])
def test_each_vgg_has_as_many_weight_layers_as_its_name_says(vgg, convolutions):
    assert len(kinds(vgg(10, (3, 32, 32), width=0.05), nn.Conv2d)) == convolutions


def test_the_names_of_its_weights_are_those_of_older_checkpoints():
    places = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)  # three layers per convolution, one per pooling
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = [
        key for at in places for key in (f"0.{at}.weight", *(f"0.{at + 1}.{name}" for name in norm))
    ] + ["3.weight", "3.bias"]  # fmt: skip
    assert list(vgg16(10, (3, 32, 32), width=0.05).state_dict()) == expected


def test_the_weights_that_a_seed_gives_are_those_of_older_versions():
    torch.manual_seed(3)
    net = vgg16(10, (3, 32, 32), width=0.05)
    torch.manual_seed(3)
    for conv in kinds(net, nn.Conv2d):  # PyTorch draws first, when layers are made
        nn.Conv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False)
    for conv in kinds(net, nn.Conv2d):
        assert torch.equal(conv.weight, nn.init.kaiming_normal_(torch.empty_like(conv.weight), mode="fan_out"))
    assert torch.equal(kinds(net, nn.Linear)[0].weight, nn.Linear(26, 10).weight)


@pytest.mark.parametrize(("width", "first", "last"), [(0.25, 16, 128), (0.05, 3, 26), (0.001, 1, 1), (1.25, 80, 640)])
def test_width_multiplies_every_convolution(width, first, last):
    net = vgg16(10, (3, 32, 32), width=width)
    convolutions = kinds(net, nn.Conv2d)
    assert (convolutions[0].out_channels, convolutions[-1].out_channels) == (first, last)
    assert kinds(net, nn.Linear)[0].in_features == last


@pytest.mark.parametrize("width", [0, -1, 17, float("inf")])
def test_a_width_that_is_none(width):
    with pytest.raises(InputError, match=r"0\.25"):
        vgg16(10, (3, 32, 32), width=width)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "poolings"), [((8, 8), 3), ((28, 28), 4), ((32, 32), 5), ((64, 64), 5), ((8, 64), 3)])
def test_image_sizes(size, poolings, channels):
    torch.manual_seed(0)
    net = vgg16(2, (channels, *size), width=0.05).train()
    assert len(kinds(net, nn.MaxPool2d)) == poolings
    x = torch.rand(4, channels, *size)
    logits = net(x)
    assert logits.shape == (4, 2)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters() if parameter.ndim == 4)


def test_build_makes_a_classifier_that_normalises_inside():
    model = build("vgg16(width=0.05)", classes=["a", "b"], input_size=(1, 8, 8), mean=[0.3], std=[0.2]).eval()
    assert (model.classes, model.input_size, model.arch) == (("a", "b"), (1, 8, 8), "vgg16(width=0.05)")
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model(x), model.net((x - 0.3) / 0.2), rtol=1e-6, atol=1e-6)


def test_an_unknown_architecture_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'resnet18'"):
        build("resnet19", classes=["a", "b"], input_size=(1, 8, 8))
    with pytest.raises(InputError, match="did you mean 'width'"):
        build("vgg16(widht=2)", classes=["a", "b"], input_size=(1, 8, 8))
