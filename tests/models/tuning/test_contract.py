"""Properties of every `tune` plug-in."""

import pytest
import torch
from torch import nn

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.models.checkpoint import build
from robustcls.models.heads import head_of
from robustcls.models.transfer import keep_frozen_in_eval, parameter_groups, tuned
from robustcls.runtime.low_rank import low_rank_layers, plain_parameters

SPECS = ["all", "head", "norm_bias", "lora(rank=2)"]
every_spec = pytest.mark.parametrize("spec", SPECS)


def make(spec, arch="resnet18(width=0.125)", head="linear", seed=0):
    torch.manual_seed(0)
    model = build(arch, classes=("a", "b", "c"), input_size=(1, 16, 16), head=head)
    return model, plugins.load("tune", spec)(model, torch.Generator().manual_seed(seed))


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_every_plug_in_is_here():
    assert {spec.partition("(")[0] for spec in SPECS} == set(plugins.names("tune"))


@every_spec
@pytest.mark.parametrize("head", ["linear", "8-relu-K"])
def test_the_head_is_trained_and_the_model_gives_what_it_gave(spec, head):
    model, _ = make(spec, head=head)
    name, module = head_of(model.net, 3)
    assert {f"net.{name}.{key}" for key, _ in module.named_parameters()} <= trained(model)
    x = torch.rand(4, 1, 16, 16)
    assert torch.equal(model.eval()(x), make("all", head=head)[0].eval()(x))


@every_spec
def test_a_batchnorm_that_is_not_trained_keeps_its_statistics(spec):
    model, frozen = make(spec)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model.train()
    keep_frozen_in_eval(frozen)
    model(torch.rand(4, 1, 16, 16))
    moved = {name for name, tensor in model.named_buffers() if not torch.equal(tensor, before[name])}
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {name.rpartition(".")[0] for name in moved} == (norms if spec in ("all", "norm_bias") else set())


@every_spec
def test_it_takes_nothing_from_the_global_random_numbers(spec):
    before = torch.get_rng_state()
    model, _ = make(spec)
    torch.manual_seed(0)
    build("resnet18(width=0.125)", classes=("a", "b", "c"), input_size=(1, 16, 16))
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    make(spec)
    assert torch.equal(torch.get_rng_state(), after)
    again, _ = make(spec)
    other, _ = make(spec, seed=1)
    state, same = model.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert any(not torch.equal(state[name], other.state_dict()[name]) for name in state) == spec.startswith("lora")


def test_norm_bias_trains_what_has_one_dimension():
    model, _ = make("norm_bias")
    head = head_of(model.net, 3)[0]
    rest = trained(model) - {f"net.{head}.weight", f"net.{head}.bias"}
    assert rest == {name for name, p in model.named_parameters() if p.ndim == 1 and not name.startswith(f"net.{head}")}
    assert len(rest) == 2 * sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize(
    "arch",
    [
        "vgg11(width=0.125)",
        "resnet18(width=0.125)",
        "torchvision/mobilenet_v3_small",  # has grouped convolutions
        "tests.models.tuning.test_contract:attention",
    ],
)
def test_lora_adds_to_every_matrix_but_the_heads(arch):
    model, _ = make("lora(rank=1)", arch)
    layers = low_rank_layers(model.net)
    kinds = (nn.Linear, nn.Conv2d)
    matrices = {name for name, module in model.net.named_modules() if isinstance(module, kinds)}
    assert layers.keys() == matrices - {head_of(model.net, 3)[0]}
    about = tuned(model, "lora(rank=1)")
    added = sum((len(layer.weight) + layer.weight[0].numel()) for layer in layers.values())
    assert about.trained == added + sum(p.numel() for p in head_of(model.net, 3)[1].parameters())
    assert about.parameters == sum(p.numel() for p in plain_parameters(model).values())
    assert len(about.layers) == len(layers) + 1
    model.eval()(torch.rand(2, 1, *model.input_size[1:])).sum().backward()
    for layer in layers.values():
        low = layer.parametrizations.weight
        assert low.original.grad is None
        assert low[0].b.grad is not None
        assert not low[0].a.grad.any()  # 0 as long as B is 0


def attention(num_classes, input_size):
    """Return a network with a transformer layer, whose matrices PyTorch's attention reads without calling a layer."""
    patches = nn.Sequential(nn.Conv2d(input_size[0], 8, 4, stride=4), nn.Flatten(2))
    layer = nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True)
    return nn.Sequential(patches, layer, nn.Flatten(), nn.Linear(128, num_classes))


def test_loras_matrices_have_no_weight_decay():
    model, _ = make("lora(rank=2)")
    decayed = [
        p for group in parameter_groups(model, lr=1, weight_decay=0.1) if group["weight_decay"] for p in group["params"]
    ]
    assert decayed == [head_of(model.net, 3)[1].weight]


class Tied(nn.Module):
    def __init__(self, *_):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1))))


@pytest.mark.parametrize(
    ("spec", "arch", "says"),
    [
        (
            "lora(rank=10)",
            "vgg11(width=0.125)",
            "lora(rank=10): layer net.0.0 is a matrix of 8x9: give a rank from 1 to 8",
        ),
        ("lora(rank=0)", "vgg11(width=0.125)", "give a rank from 1 to 8"),
        ("lora(alpha=0.0)", "vgg11(width=0.125)", "lora(alpha=0.0): give a number above 0"),
        (
            "lora",
            "tests.models.tuning.test_contract:Tied",
            "weight of their own, and that of net.second is computed or shared",
        ),
        ("lora", "tests.models.tuning.test_contract:flat", "a linear layer before the head, and there is none"),
        ("lorra", "vgg11(width=0.125)", "unknown tune 'lorra': did you mean 'lora'?"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(spec, arch, says):
    with pytest.raises(InputError) as caught:
        make(spec, arch)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def flat(num_classes, input_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(256, num_classes))
