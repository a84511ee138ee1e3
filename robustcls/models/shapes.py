"""The widths of a network's layers, where pruning changed them: numbers in a checkpoint, so that nothing is unpickled."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

WIDTHS = ("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_channels")


def shapes_of(net: nn.Module) -> dict[str, dict[str, int]]:
    """The widths of each layer that has some, by its name."""
    found = {
        name: {width: int(getattr(module, width)) for width in WIDTHS if isinstance(getattr(module, width, None), int)}
        for name, module in net.named_modules()
    }
    return {name: widths for name, widths in found.items() if widths}


def take_shapes(net: nn.Module, shapes: Mapping[str, Mapping[str, int]], state: Mapping[str, Tensor]) -> None:
    """Gives the layers of a network these widths, in place, and its parameters and buffers the shapes of a state dict.

    Weights mean nothing afterwards. What the network lacks is left to whoever loads the state dict.
    """
    modules: dict[str, Any] = dict(net.named_modules())
    for name, widths in shapes.items():
        for width, value in widths.items():
            if name in modules and isinstance(getattr(modules[name], width, None), int):
                setattr(modules[name], width, int(value))
    for key, tensor in state.items():
        name, _, own = key.rpartition(".")
        module = modules.get(name)
        if module is None:
            continue
        if (parameter := module._parameters.get(own)) is not None and parameter.shape != tensor.shape:
            empty = torch.empty(tensor.shape, dtype=parameter.dtype, device=parameter.device)
            module._parameters[own] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
        elif (buffer := module._buffers.get(own)) is not None and buffer.shape != tensor.shape:
            module._buffers[own] = torch.empty(tensor.shape, dtype=buffer.dtype, device=buffer.device)
