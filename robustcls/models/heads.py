"""Finds and replaces the classifier head: the last layer of a network, or a small network in its place."""

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


def drop_before_head(model: Classifier, share: float) -> None:
    """In train mode a share of the head's inputs is 0, drawn anew in each pass, the others larger for it (Srivastava et al.
    2014, JMLR 15). A hook: the network's layers and tensors are what they were.

    Raises InputError without a head, or where the network takes the head's weights without calling it.
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
    """What a layer is given, less a share of it in train mode."""

    def __init__(self, share: float) -> None:
        self.share, self.called = share, False

    def __call__(self, head: nn.Module, inputs: tuple) -> tuple:
        self.called = True
        return (F.dropout(inputs[0], self.share, head.training), *inputs[1:])


def _channels(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a layer that could make the logits; (0, 0) for any other."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return module.in_channels, module.out_channels
    return 0, 0


def _like(layer: nn.Module, inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 1) if isinstance(layer, nn.Conv2d) else nn.Linear(inputs, outputs)
