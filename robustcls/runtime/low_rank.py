"""Layers whose weight is a fixed one plus a product of two small matrices, and the plain layers that they equal."""

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """W -> W + alpha / rank * B A, as a parametrisation of a layer's weight (Hu et al. 2021, arXiv:2106.09685).

    W of a convolution is taken as a matrix of outputs x (inputs of a group, kernel), so that A is rank x columns, B is
    outputs x rank. B is 0 at first: the layer is then what it was.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: Generator) -> None:
        super().__init__()
        rows, columns = matrix_shape(weight)
        bound = 1 / math.sqrt(columns)
        a = (2 * torch.rand(rank, columns, generator=generator) - 1) * bound
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # the sum is rounded once, as in the checkpoint
            # In the memory format of the weight, by which PyTorch chooses how it convolves.
            return weight.clone().add_((self.b @ self.a).view(weight.shape), alpha=self.scale)


def matrix_shape(weight: Tensor) -> tuple[int, int]:
    """Rows and columns of a layer's weight as a matrix."""
    return len(weight), weight[0].numel()


def low_rank_layers(model: nn.Module) -> dict[str, Any]:
    """The layers of a model with a LowRank weight, by name."""
    return {name: module for name, module in model.named_modules() if _is_low_rank(module)}


def merge(model: nn.Module) -> nn.Module:
    """Gives each layer with a LowRank weight that weight for good, in place; other models stay as they are.

    Not by PyTorch's `remove_parametrizations`: it changes the layer's class, which a copy shares with its original.
    """
    for layer in low_rank_layers(model).values():
        weight = layer.weight.detach()
        del layer.parametrizations
        layer.__class__ = type(layer).__bases__[0]
        layer.weight = nn.Parameter(weight)
    return model


def plain_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of a model without those that compute LowRank weights: those that it has once it is merged."""
    held = {id(inner) for layer in low_rank_layers(model).values() for inner in layer.parametrizations.modules()}
    return [module for module in model.modules() if id(module) not in held]


def plain_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model by the names that they have once it is merged, LowRank weights as computed."""
    layers = low_rank_layers(model)
    held = tuple(f"{name}.parametrizations." for name in layers)
    plain: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if not name.startswith(held)}
    return plain | {f"{name}.weight": layer.weight for name, layer in layers.items()}


def _is_low_rank(module: Any) -> bool:
    return parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], LowRank)
