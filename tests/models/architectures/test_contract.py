"""Properties of every architecture for small images, and the structure of the residual ones."""

import copy

import pytest
import torch
from torch import nn

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.models.architectures._layers import make_activation
from robustcls.models.architectures.resnet import resnet18
from robustcls.models.checkpoint import build
from robustcls.runtime.fused import FusedModel

SMALL = {"wide_resnet": "depth=10, width=1"} | dict.fromkeys(("resnet18", "preact_resnet18"), "width=0.125")
SPECS = {name: f"{name}({SMALL.get(name, 'width=0.05')}, activation='{{}}')" for name in plugins.names("model")}


def make(name, activation="relu", input_size=(3, 8, 8)):
    return build(SPECS[name].format(activation), classes=["a", "b", "c"], input_size=input_size)


def train(model, steps=3, batch=2):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    model.train()
    for _ in range(steps):
        x = torch.rand(batch, *model.input_size) * 2
        loss = nn.functional.cross_entropy(model(x), torch.arange(batch) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss


@pytest.mark.parametrize("activation", ["relu", "silu", "softplus"])
@pytest.mark.parametrize("name", SPECS)
def test_a_pair_of_images_trains_and_the_twin_agrees(name, activation):
    model = make(name, activation)
    before = copy.deepcopy(model.state_dict())
    assert train(model).isfinite()
    assert all(not torch.equal(model.state_dict()[key], before[key]) for key in before if key.startswith("net."))
    assert any(isinstance(module, type(make_activation(activation))) for module in model.modules())
    assert activation == "relu" or not any(isinstance(module, nn.ReLU) for module in model.modules())
    twin = FusedModel(model)
    norms, left = (len([m for m in one.modules() if isinstance(m, nn.BatchNorm2d)]) for one in (model, twin))
    assert left < norms or (name, norms) == ("cnn4", 0)
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(twin(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    train(model, batch=4)
    twin.refresh()
    torch.testing.assert_close(twin(x), model.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("input_size", [(1, 8, 8), (3, 9, 13), (1, 28, 28), (3, 64, 64), (3, 224, 224)])
@pytest.mark.parametrize("name", SPECS)
def test_image_sizes(name, input_size):
    model = make(name, input_size=input_size)
    logits = model(torch.rand(2, *input_size))
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.ndim == 4)


@pytest.mark.filterwarnings("ignore:Setting")
@pytest.mark.parametrize("name", [name for name in SPECS if "resnet" in name])
def test_attributions_that_replace_the_gradient_of_relu_work_on_residual_networks(name):
    from captum.attr import DeepLift, GuidedBackprop

    model, x = make(name).eval(), torch.rand(2, 3, 8, 8)
    for method in (GuidedBackprop, DeepLift):
        assert method(model.net).attribute(x.clone().requires_grad_(), target=1).abs().sum() > 0


def weights(spec, input_size=(3, 32, 32)):
    net = build(spec, classes=[str(i) for i in range(10)], input_size=input_size).net
    return sum(parameter.numel() for parameter in net.parameters()), net


def test_the_sizes_are_those_of_the_papers():
    assert weights("resnet18")[0] == 11_173_962  # as in kuangliu's pytorch-cifar
    assert weights("preact_resnet18")[0] == 11_171_146 + 2 * 512  # pytorch-cifar has no final BatchNorm
    assert weights("resnet7")[0] == 48 * 64 + 9 * (64**2 + 64 * 128 + 128**2 + 128 * 256 + 256**2) + 4 * 448 + 2570
    assert weights("wide_resnet")[0] == 36_479_194  # 36.5 M in table 4 of the paper
    assert weights("wide_resnet(depth=16, width=4)")[0] == 2_748_890  # 2.7 M


@pytest.mark.parametrize("name", ["resnet18", "preact_resnet18", "wide_resnet"])
def test_the_grid_is_halved_at_each_stage_but_the_first(name):
    net, grids = make(name, input_size=(3, 32, 32)).net, []
    for child, module in net.named_children():
        if child.startswith("layer"):
            module.register_forward_hook(lambda module, inputs, output: grids.append(output.shape[-1]))
    net(torch.rand(2, 3, 32, 32))
    assert grids == [32, 16, 8, 4][: len(grids)]
    assert len(grids) == (3 if name == "wide_resnet" else 4)


def test_resnet_is_torchvisions_but_for_its_stem():
    from torchvision import models

    ours, theirs = resnet18(10, (3, 32, 32)).eval(), models.resnet18(num_classes=10).eval()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    state = ours.state_dict()
    theirs.load_state_dict(
        {key.replace("shortcut", "downsample").replace("linear", "fc"): tensor for key, tensor in state.items()}
    )
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_initial_weights_are_hes():
    torch.manual_seed(0)
    for spec in ("resnet18(width=0.5)", "preact_resnet18(width=0.5)", "wide_resnet(depth=10, width=2)"):
        net = weights(spec)[1]
        for conv in (module for module in net.modules() if isinstance(module, nn.Conv2d)):
            fan_out = conv.out_channels * conv.kernel_size[0] ** 2
            assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
    assert net.linear.bias.abs().max() == 0


def test_softplus_is_near_relu_and_smooth():
    x = torch.linspace(-3, 3, 601, requires_grad=True)
    y = make_activation("softplus")(x)
    assert (y - x.relu()).abs().max().item() == pytest.approx(torch.tensor(2.0).log().item() / 10)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert slope.diff().max() < 0.03
    torch.testing.assert_close(make_activation("silu")(x), x * x.sigmoid())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("wide_resnet(depth=27)", r"depth 27 is not 6n \+ 4: give 10, 16, 22, 28"),
        ("wide_resnet(depth=4)", "depth 4 is not"),
        ("wide_resnet(depth=-2)", "depth -2 is not"),
        ("wide_resnet(width=0)", "width 0 is not a widen factor"),
        ("wide_resnet(width=0.5)", "width=0.5 is not a whole number"),
        ("resnet18(width=0)", "width 0.0 is not a multiplier"),
        ("preact_resnet18(width=17)", "give a number above 0, such as 0.25"),
        ("resnet18(activation='gelu')", "'relu' or 'silu' or 'softplus'"),
    ],
)
def test_options_that_are_none(spec, words):
    with pytest.raises(InputError, match=words) as caught:
        build(spec, classes=["a", "b"], input_size=(3, 32, 32))
    assert "\n" not in str(caught.value)
