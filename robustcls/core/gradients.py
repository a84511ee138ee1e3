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
    """The gradient of each sample's loss(model(x), y) by its own x: N,C,H,W. Parameters' gradients are not touched.

    The losses are summed, not averaged, so that the batch size does not scale gradients towards underflow.
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        total = loss(model(x), y).sum()
        if (
            not total.requires_grad
        ):  # the model is not differentiable: say so with zeros, as a gradient-masking check sees it
            return torch.zeros_like(x)
        (grad,) = torch.autograd.grad(total, x, allow_unused=True)
    return torch.zeros_like(x) if grad is None else grad


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode without parameter gradients; at the end modes, flags and buffers are exactly as before.

    Buffers are copied too, for modules that count or average in their forward pass whatever their mode.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
