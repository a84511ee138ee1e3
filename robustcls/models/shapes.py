"""The widths of a network's layers, where pruning changed them: numbers in a checkpoint, so that nothing is unpickled."""

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
    """The widths of each layer that has some, by its name."""
    found = {
        name: {width: value for width in WIDTHS if (value := _width(getattr(module, width, None))) is not None}
        for name, module in net.named_modules()
    }
    return {name: widths for name, widths in found.items() if widths}


def take_shapes(net: nn.Module, shapes: Any, state: Mapping[str, Any], name: str) -> None:
    """Give the layers of a fresh network these widths, in place, and its tensors the shapes of a state dict.

    The weights mean nothing afterwards. What the network lacks is left to whoever loads the state dict.

    Args:
        net: of the architecture that was pruned.
        shapes: as `shapes_of` gives them; whatever a file holds.
        state: the weights that will be loaded.
        name: of the file.

    Raises:
        InputError: for anything but layers of this network and widths of at most its own, so that a file cannot make it
            larger than the architecture is.
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
        module, _, own = key.rpartition(".")
        tensors = [modules[module]._parameters, modules[module]._buffers] if module in modules else []
        for held in tensors:
            current = held.get(own)
            if current is None or not isinstance(tensor, Tensor) or tensor.shape == current.shape:
                continue
            if not _is_part(list(tensor.shape), list(current.shape)):
                raise _misfit(name, f"{key} is {tuple(tensor.shape)}, of {tuple(current.shape)}")
            empty = torch.empty(tensor.shape, dtype=current.dtype, device=current.device)
            held[own] = nn.Parameter(empty, current.requires_grad) if isinstance(current, nn.Parameter) else empty


def _width(value: Any) -> Width | None:
    if isinstance(value, tuple) and value and all(isinstance(one, int) for one in value):
        return [int(one) for one in value]
    return int(value) if isinstance(value, int) else None


def _is_part(value: Any, full: Width | None) -> bool:
    """Whether it is a whole number, or are whole numbers, from 1 to that of the unpruned layer."""
    if isinstance(full, list) and isinstance(value, list | tuple):
        return len(value) == len(full) and all(map(_is_part, value, full))
    return isinstance(full, int) and type(value) is int and 1 <= value <= full


def _misfit(name: str, what: str) -> InputError:
    return InputError(f"{name}: the widths of its pruned layers are not those of a part of `arch`: {what}")
