"""Finds and replaces the head of a classifier: the last layer of a network, or a small network in its place."""

import re

import torch
from torch import nn
from torch.nn import functional as F

from robustcls.core.classifier import Classifier, device_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.models.architectures._layers import make_activation

LINEAR = "linear"
_HIDDEN = r"([1-9]\d{0,4})-(relu|silu|softplus)(?:-dropout(0?\.\d{1,4}))?-"


class Head(nn.Sequential):
    """A head of several layers."""


def head_of(net: nn.Module, num_classes: int | None = None) -> tuple[str, nn.Module]:
    """Return name and module of the head: the one of `replace_head`, else the last linear layer or 1x1 convolution.

    The last layer is the one registered last, which is usually the last one in the forward pass. num_classes: the number of
    outputs that it must have; None for any. Raises InputError where there is no such layer.
    """
    modules = list(net.named_modules())
    heads = [(name, module) for name, module in modules if isinstance(module, Head)]
    heads = heads or [one for one in modules if (outputs := _channels(one[1])[1]) and num_classes in (None, outputs)]
    if not heads:
        size = "" if num_classes is None else f" of {num_classes} outputs"
        raise InputError(f"the model has no linear layer or 1x1 convolution{size}: a head must be one")
    return heads[-1]


def replace_head(model: Classifier, head: str) -> None:
    """Replace the head of a fresh model; `linear` keeps the head of the architecture. Raises InputError.

    head: hidden layers, then K for the logits, such as `512-relu-K` or `512-relu-256-silu-dropout0.5-K`. A hidden layer is a
    width, an activation (relu, silu or softplus) and, optionally, dropout with its probability.
    """
    model.head = head  # type: ignore[assignment]
    if head == LINEAR:
        return
    if not re.fullmatch(f"(?:{_HIDDEN})+K", head):
        raise InputError(
            f"head {head!r} is not a head: give linear, or hidden layers and K, such as 512-relu-dropout0.5-K"
        )
    name, last = head_of(model.net, len(model.classes))
    layers: list[nn.Module] = []
    channels = _channels(last)[0]
    for width, activation, dropout in re.findall(_HIDDEN, head):
        layers += [_like(last, channels, int(width)), make_activation(activation)]
        layers += [nn.Dropout(float(dropout))] if dropout else []
        channels = int(width)
    model.set_submodule(f"net.{name}".rstrip("."), Head(*layers, _like(last, channels, len(model.classes))))


def drop_before_head(model: Classifier, share: float) -> None:
    """Apply dropout to the inputs of the head in train mode (Srivastava et al. 2014, JMLR 15).

    It is a forward hook, so that the network's layers and tensors stay the same. share: dropout probability. Raises InputError
    where there is no head, or where the network uses the head's weights without calling it.
    """
    name, head = head_of(model.net, len(model.classes))
    dropout = _Dropout(share)
    head.register_forward_pre_hook(dropout)
    with torch.no_grad(), frozen(model):
        model(torch.zeros(1, *model.input_size, device=device_of(model)))
    if not dropout.called:
        raise InputError(
            f"`dropout` comes before the head, and {model.arch} never calls its own, {name!r}: leave it out"
        )


class _Dropout:
    """A forward pre-hook that applies dropout to a layer's input in train mode. `called` tells whether it ever ran."""

    def __init__(self, share: float) -> None:
        self.share, self.called = share, False

    def __call__(self, head: nn.Module, inputs: tuple) -> tuple:
        self.called = True
        return (F.dropout(inputs[0], self.share, head.training), *inputs[1:])


def _channels(module: nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a layer that could compute the logits; (0, 0) for any other layer."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return module.in_channels, module.out_channels
    return 0, 0


def _like(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1) if isinstance(layer, nn.Conv2d) else nn.Linear(inputs, outputs)
