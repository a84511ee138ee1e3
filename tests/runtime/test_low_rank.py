"""Low-rank weights, a fixed matrix plus a product of two small ones, against the explicit sum."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from robustcls.runtime.fused import FusedModel
from robustcls.runtime.low_rank import LowRank, low_rank_layers, merge, plain_modules, plain_parameters


def add_low_rank(model, rank=2, alpha=3.0):
    """Add low-rank weights to every convolution and linear layer, with a B that is not 0; return the model."""
    generator = torch.Generator().manual_seed(1)
    for layer in [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]:
        low = LowRank(layer.weight, rank, alpha, generator)
        nn.init.normal_(low.b, std=0.1)
        parametrize.register_parametrization(layer, "weight", low)
    return model


def network(groups=1):
    layers = [
        nn.Conv2d(4, 8, 3, bias=False, groups=groups),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 1),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(54, 7), nn.BatchNorm1d(7))


@pytest.mark.parametrize("groups", [1, 4])
def test_a_convolution_is_the_sum_of_two(groups):
    layer = nn.Conv2d(4, 8, 3, groups=groups)
    before, x = copy.deepcopy(layer), torch.randn(2, 4, 9, 9)
    add_low_rank(layer, rank=2, alpha=3.0)
    low = layer.parametrizations.weight[0]
    first = nn.functional.conv2d(x, (low.b @ low.a).view(8, 4 // groups, 3, 3), groups=groups)
    torch.testing.assert_close(layer(x), before(x) + 1.5 * first)
    assert (low.a.shape, low.b.shape) == ((2, 36 // groups), (8, 2))


@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Conv2d(1, 8, 3), nn.Conv2d(4, 8, 3)])
def test_it_begins_as_the_layer_that_it_was(layer):
    layer = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    before = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, 2, 4.0, torch.Generator()))
    assert torch.equal(layer.weight, before)
    assert layer.weight.stride() == before.stride()
    assert layer.parametrizations.weight[0].a.abs().amax() > 0  # if both were 0, gradients would stay 0


def test_it_is_computed_in_fp32_under_autocast_too():
    layer = add_low_rank(nn.Linear(5, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = layer.weight
    assert torch.equal(inside, layer.weight)


def test_merged_it_is_a_plain_model_and_its_original_stays_as_it_was():
    model, x = add_low_rank(network()).eval(), torch.randn(3, 4, 5, 5)
    plain = merge(copy.deepcopy(model))
    assert [type(m) for m in plain.modules()] == [type(m) for m in network().modules()]
    assert plain.state_dict().keys() == network().state_dict().keys()
    assert torch.equal(plain(x), model(x))
    assert list(low_rank_layers(model)) == ["0", "3", "6"]
    weights = plain_parameters(model)
    assert weights.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(weights[name], p) for name, p in plain.named_parameters())
    assert [type(m).__name__.removeprefix("Parametrized") for m in plain_modules(model)] == [
        type(m).__name__ for m in plain.modules()
    ]


def test_other_parametrisations_and_plain_models_stay():
    model = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    names = set(model.state_dict())
    assert merge(model).state_dict().keys() == names
    assert len(list(model.modules())) == len(plain_modules(model)) > 1
    assert list(plain_parameters(network())) == [name for name, _ in network().named_parameters()]


@pytest.mark.parametrize("fold", [True, False])
def test_the_attacks_copy_is_folded_and_follows_every_update(fold):
    model, x = add_low_rank(network()), torch.rand(3, 4, 5, 5)
    for norm in (model[1], model[7]):
        nn.init.normal_(norm.running_mean)
    twin = FusedModel(model.eval(), "fp32", x[:1], fold=fold)
    assert sum(isinstance(m, nn.Identity) for m in twin.copy.modules()) == 2 * fold
    assert not low_rank_layers(twin.copy)
    for number in range(2):
        torch.testing.assert_close(twin(x), model(x), rtol=1e-4, atol=1e-5)
        before = twin(x)
        with torch.no_grad():
            for layer in low_rank_layers(model).values():
                layer.parametrizations.weight[0].b.add_(0.3 + number)
        torch.testing.assert_close(twin(x), before)  # not before refresh
        assert not torch.allclose(model(x), before, atol=1e-2)
        twin.refresh()
    torch.testing.assert_close(twin(x), model(x), rtol=1e-4, atol=1e-5)
