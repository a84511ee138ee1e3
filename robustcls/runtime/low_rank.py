"""Low-rank adaptation: layers whose weight is a fixed one plus a product of two small matrices, and merging them."""

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """The parametrisation W -> W + alpha / rank * B A of a layer's weight (Hu et al. 2021, arXiv:2106.09685).

    The weight of a convolution counts as a matrix with a row per output and a column per input of a group and kernel place. A
    is rank x columns, and B is rows x rank. B is initially 0, so that the layer does not change.
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
            # The clone keeps the memory format of the weight, by which PyTorch chooses the convolution algorithm.
            return weight.clone().add_((self.b @ self.a).view(weight.shape), alpha=self.scale)


def matrix_shape(weight: Tensor) -> tuple[int, int]:
    """Return the numbers of rows and columns of a layer's weight as a matrix."""
    return len(weight), weight[0].numel()


def low_rank_layers(model: nn.Module) -> dict[str, Any]:
    """Return the layers of a model that have a LowRank weight, by name."""
    return {name: module for name, module in model.named_modules() if _is_low_rank(module)}


def merge(model: nn.Module) -> nn.Module:
    """Replace LowRank weights by their sum, in place, and return the model. Models without them are not changed.

    PyTorch's `remove_parametrizations` is not used, because it changes the layer's class, which copies share with the original.
    """
    for layer in low_rank_layers(model).values():
        weight = layer.weight.detach()
        del layer.parametrizations
        layer.__class__ = type(layer).__bases__[0]
        layer.weight = nn.Parameter(weight)
    return model


def plain_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that a model has after merging: all except those that compute LowRank weights."""
    added = {id(inner) for layer in low_rank_layers(model).values() for inner in layer.parametrizations.modules()}
    return [module for module in model.modules() if id(module) not in added]


def plain_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that a model has after merging, by name; LowRank weights are computed."""
    layers = low_rank_layers(model)
    added = tuple(f"{name}.parametrizations." for name in layers)
    plain: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if not name.startswith(added)}
    return plain | {f"{name}.weight": layer.weight for name, layer in layers.items()}


def _is_low_rank(module: Any) -> bool:
    return parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], LowRank)
