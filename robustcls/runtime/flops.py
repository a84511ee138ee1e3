"""Counts floating-point operations."""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class FlopCounter(TorchDispatchMode):
    """Context that counts the operations of matrix products and convolutions, forward and backward, two per multiply-add.

    torch.utils.flop_counter.FlopCounterMode is not used, because it also tracks modules, which fails for gradients with respect
    to the input.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if count := flop_registry.get(function._overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def forward_flops(model: nn.Module, images: Tensor) -> float:
    """Return the operations of a forward pass per image, two per multiply-add. images: N,C,H,W on the model's device."""
    with FlopCounter() as counter, torch.no_grad():
        model(images)
    return counter.total / len(images)
