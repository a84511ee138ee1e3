"""The layer widths of a pruned network. A checkpoint stores them as numbers, so that no module has to be unpickled."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError

WIDTHS = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_channels",
    "num_parameters", "normalized_shape",
)  # fmt: skip
Width = int | list[int]


def shapes_of(net: nn.Module) -> dict[str, dict[str, Width]]:
    """Return the widths of each layer that has any, by the layer's name."""
    shapes = {
        name: {width: value for width in WIDTHS if (value := _width(getattr(module, width, None))) is not None}
        for name, module in net.named_modules()
    }
    return {name: widths for name, widths in shapes.items() if widths}


def take_shapes(net: nn.Module, shapes: Any, state: Mapping[str, Any], name: str) -> None:
    """Give the layers of a fresh network these widths, in place, and its tensors the shapes of a state dict.

    The weights are undefined afterwards. Tensors that the network lacks are ignored here; loading the state dict reports them.

    Args:
        net: a network of the architecture that was pruned.
        shapes: widths as returned by `shapes_of`; they come from a file and may be anything.
        state: the weights that will be loaded.
        name: of the file, for messages.

    Raises:
        InputError: unless these are layers of this network with widths of at most its own: a file must not make the network
            larger than its architecture.
    """
    modules: dict[str, Any] = dict(net.named_modules())
    full = shapes_of(net)
    if not isinstance(shapes, Mapping):
        raise _misfit(name, f"they are {type(shapes).__name__}")
    for layer, widths in shapes.items():
        if layer not in full or not isinstance(widths, Mapping):
            raise _misfit(name, f"there is no layer {layer!r:.60} with widths")
        for width, value in widths.items():
            if not _is_part(value, full[layer].get(width)):
                raise _misfit(name, f"{width!s:.20} of {layer} is {value!r:.40}, not 1 to {full[layer].get(width)}")
            setattr(modules[layer], width, tuple(value) if isinstance(value, list | tuple) else value)
    for key, tensor in state.items():
        module, _, attribute = key.rpartition(".")
        tensors = [modules[module]._parameters, modules[module]._buffers] if module in modules else []
        for registered in tensors:
            current = registered.get(attribute)
            if current is None or not isinstance(tensor, Tensor) or tensor.shape == current.shape:
                continue
            if not _is_part(list(tensor.shape), list(current.shape)):
                raise _misfit(name, f"{key} is {tuple(tensor.shape)}, of {tuple(current.shape)}")
            empty = torch.empty(tensor.shape, dtype=current.dtype, device=current.device)
            is_parameter = isinstance(current, nn.Parameter)
            registered[attribute] = nn.Parameter(empty, current.requires_grad) if is_parameter else empty


def _width(value: Any) -> Width | None:
    if isinstance(value, tuple) and value and all(isinstance(one, int) for one in value):
        return [int(one) for one in value]
    return int(value) if isinstance(value, int) else None


def _is_part(value: Any, full: Width | None) -> bool:
    """Whether a value is an integer, or a list of integers, from 1 to that of the unpruned layer."""
    if isinstance(full, list) and isinstance(value, list | tuple):
        return len(value) == len(full) and all(map(_is_part, value, full))
    return isinstance(full, int) and type(value) is int and 1 <= value <= full


def _misfit(name: str, reason: str) -> InputError:
    return InputError(f"{name}: the widths of its pruned layers are not those of a part of `arch`: {reason}")
