"""Finds and replaces the classifier head: the last layer of a network, or a small network in its place."""

import re

from torch import nn

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.models.architectures._layers import make_activation

LINEAR = "linear"
_HIDDEN = r"([1-9]\d{0,4})-(relu|silu|softplus)(?:-dropout(0?\.\d{1,4}))?-"


class Head(nn.Sequential):
    """A head of several layers."""


def head_of(net: nn.Module, num_classes: int | None = None) -> tuple[str, nn.Module]:
    """Name and module of the head: what `replace_head` put there, else the last linear layer or 1x1 convolution.

    num_classes: how many outputs it must have; any number where None. The order is that of registration, which is
    the forward pass's. Raises InputError where there is none.
    """
    modules = list(net.named_modules())
    found = [(name, module) for name, module in modules if isinstance(module, Head)]
    found = found or [one for one in modules if (outputs := _channels(one[1])[1]) and num_classes in (None, outputs)]
    if not found:
        size = "" if num_classes is None else f" of {num_classes} outputs"
        raise InputError(f"the model has no linear layer or 1x1 convolution{size}: a head must be one")
    return found[-1]


def replace_head(model: Classifier, head: str) -> None:
    """Puts a new head in place of a fresh model's; `linear` leaves the one that the architecture has.

    head: hidden layers, then K for the logits: `512-relu-K`, `512-relu-256-silu-dropout0.5-K`. A hidden layer is its
    width, relu, silu or softplus, and perhaps dropout with its probability. Raises InputError.
    """
    model.head = head  # type: ignore[assignment]
    if head == LINEAR:
        return
    if not re.fullmatch(f"(?:{_HIDDEN})+K", head):
        raise InputError(f"head {head!r} is none: give linear, or hidden layers and K, such as 512-relu-dropout0.5-K")
    name, last = head_of(model.net, len(model.classes))
    layers: list[nn.Module] = []
    channels = _channels(last)[0]
    for width, activation, dropout in re.findall(_HIDDEN, head):
        layers += [_like(last, channels, int(width)), make_activation(activation)]
        layers += [nn.Dropout(float(dropout))] if dropout else []
        channels = int(width)
    model.set_submodule(f"net.{name}".rstrip("."), Head(*layers, _like(last, channels, len(model.classes))))


def _channels(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a layer that could make the logits; (0, 0) for any other."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return module.in_channels, module.out_channels
    return 0, 0


def _like(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1) if isinstance(layer, nn.Conv2d) else nn.Linear(inputs, outputs)
