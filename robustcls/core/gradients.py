"""Gradients with respect to the input, and contexts that restore the state of a model exactly."""

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
    """Return the gradient of each sample's loss(model(x), y) by its x: N,C,H,W. Parameters keep their gradients."""
    return logits_and_gradient(model, x, loss, y)[2]


def logits_and_gradient(
    model: Callable[[Tensor], Tensor], x: Tensor, loss: Callable[..., Tensor], *labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits N,K, losses N = loss(logits, *labels) and the gradient of each loss with respect to its x: N,C,H,W.

    The losses are summed, not averaged, because a division by the batch size could underflow small gradients. If the model
    has no gradient, zeros are returned, which the zero-gradient check reports. Non-finite entries become 0.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        losses = loss(logits, *labels)
        grad = torch.autograd.grad(losses.sum(), x, allow_unused=True)[0] if losses.requires_grad else None
    return logits.detach(), losses.detach(), torch.zeros_like(x) if grad is None else finite(grad)


def finite(grad: Tensor) -> Tensor:
    """Return a copy with 0 in place of non-finite entries, so that one (such as of sqrt at 0) does not spoil the others."""
    return grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Context: the model in eval mode without parameter gradients. Modes, flags and buffers are restored exactly."""
    with kept_flags(model), kept_buffers(model):
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        yield model


@contextmanager
def kept_from(model: nn.Module) -> Iterator[None]:
    """Context for user code that may change the model: modes, flags, parameters, their gradients and buffers are restored
    bit for bit.
    """
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
    """Context that restores the training modes and the `requires_grad` flags."""
    # Modules frozen by torch.jit.freeze have no training mode.
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
    """Context that restores buffers, such as BatchNorm statistics, which modules may update in their forward pass.

    Writing to a buffer, even the same values, makes a later backward pass fail, so buffers are compared first. The comparison
    waits for the device; with graph_lives_on=False it is skipped, because no backward pass follows.
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
        for module, own in tensors:  # a module may have replaced or added tensors
            now = getattr(module, kind)
            for name in set(now.keys()) - own.keys():
                del now[name]
            for name, kept in own.items():
                if name not in now or now[name] is not kept:
                    now[name] = kept
