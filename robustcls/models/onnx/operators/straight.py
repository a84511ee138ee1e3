"""Straight-through gradients (arXiv:1308.3432), and gradients through clamping to a range."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_past_ranges = ContextVar("past_ranges", default=False)


class _Straight(torch.autograd.Function):
    """The value of one tensor with the gradient of another."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def straight_through(source: Tensor, value: Tensor) -> Tensor:
    """Return `value`; its gradient is passed unchanged to `source`, a tensor of the same shape."""
    return _Straight.apply(source, value.detach())


@contextmanager
def gradients_past_ranges() -> Iterator[None]:
    """Within the block, gradients also pass where values are clamped to a range, so that a saturated network has gradients."""
    token = _past_ranges.set(True)
    try:
        yield
    finally:
        _past_ranges.reset(token)


def clamp(x: Tensor, lowest: Any, highest: Any, rectifier: Any = False) -> Tensor:
    """Clamp x to a range; the gradient passes inside the range, or everywhere, see `gradients_past_ranges`.

    rectifier: whether the lower end is that of a ReLU, below which no gradient passes in any case.
    """
    cut = x.clamp(lowest, highest)
    if not _past_ranges.get():
        return cut
    return straight_through(torch.where(torch.as_tensor(rectifier, device=x.device), x.clamp_min(lowest), x), cut)
