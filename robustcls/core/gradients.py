"""Gradients with respect to the input, and a model that stays exactly as it was."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustcls.core.losses import cross_entropy


def input_gradient(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Tensor:
    """The gradient of each sample's loss(model(x), y) by its own x: N,C,H,W. Parameters' gradients are not touched."""
    return logits_and_gradient(model, x, loss, y)[2]


def logits_and_gradient(
    model: Callable[[Tensor], Tensor], x: Tensor, loss: Callable[..., Tensor], *labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits N,K, losses N = loss(logits, *labels), and the gradient of each loss by its own x: N,C,H,W, from one pass.

    The losses are summed, not averaged, so that the batch size does not scale gradients towards underflow. A model
    without a gradient gives zeros, which the zero-gradient check reports; entries that are not finite are 0, too.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        losses = loss(logits, *labels)
        grad = torch.autograd.grad(losses.sum(), x, allow_unused=True)[0] if losses.requires_grad else None
    return logits.detach(), losses.detach(), torch.zeros_like(x) if grad is None else finite(grad)


def finite(grad: Tensor) -> Tensor:
    """A copy with 0 for what is not finite: one such entry, such as that of a root at 0, must not stop all the others."""
    return grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode without parameter gradients; at the end modes, flags and buffers are exactly as before."""
    with kept_flags(model), kept_buffers(model):
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield model


@contextmanager
def kept_from(model: nn.Module) -> Iterator[None]:
    """Whatever code of the user's writes to the model in it: at the end modes, flags, parameters, their gradients and
    buffers are bit for bit what they were."""
    grads = [(one, one.grad, None if one.grad is None else one.grad.clone()) for one in model.parameters()]
    try:
        with kept_flags(model), _kept_tensors(model, "_parameters"), kept_buffers(model):
            yield
    finally:
        for parameter, grad, before in grads:
            if grad is not None and before is not None and not torch.equal(grad, before):
                with torch.no_grad():
                    grad.copy_(before)
            parameter.grad = grad


@contextmanager
def kept_flags(model: nn.Module) -> Iterator[None]:
    """Modes, and which parameters take a gradient, are at the end what they were."""
    # A module of torch.jit.freeze has no mode.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


@contextmanager
def kept_buffers(model: nn.Module, *, graph_lives_on: bool = True) -> Iterator[None]:
    """Buffers, such as BatchNorm's statistics, are at the end what they were, though modules count in their forward pass.

    Writing a buffer, even with equal values, breaks a backward pass to come; comparing them first waits for the device.
    graph_lives_on: whether such a pass may come.
    """
    with _kept_tensors(model, "_buffers", graph_lives_on=graph_lives_on):
        yield


@contextmanager
def _kept_tensors(model: nn.Module, kind: str, *, graph_lives_on: bool = True) -> Iterator[None]:
    """kind: `_buffers` or `_parameters` of each module."""
    tensors = [(module, dict(getattr(module, kind))) for module in model.modules()]
    values = [(tensor, tensor.detach().clone()) for _, own in tensors for tensor in own.values() if tensor is not None]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in values:
                if not (graph_lives_on and torch.equal(tensor, before)):
                    tensor.copy_(before)
        for module, own in tensors:  # a module may have put another tensor in a tensor's place, or made one
            now = getattr(module, kind)
            for name in set(now.keys()) - own.keys():
                del now[name]
            for name, kept in own.items():
                if name not in now or now[name] is not kept:
                    now[name] = kept
