"""Straight-through gradients (arXiv:1308.3432), and what a range that cuts values off does to a gradient."""

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
    """`value` whose gradient goes to `source`, a tensor of the same shape, unchanged."""
    return _Straight.apply(source, value.detach())


@contextmanager
def gradients_past_ranges() -> Iterator[None]:
    """In it, gradients also pass where a range cuts values off, so that a saturated network still has some."""
    token = _past_ranges.set(True)
    try:
        yield
    finally:
        _past_ranges.reset(token)


def clamp(x: Tensor, lowest: Any, highest: Any, rectifier: Any = False) -> Tensor:
    """x cut off at both ends; the gradient passes inside the range, or everywhere: `gradients_past_ranges`.

    rectifier: where the lower end is that of a ReLU, below which no gradient passes either way.
    """
    cut = x.clamp(lowest, highest)
    if not _past_ranges.get():
        return cut
    return straight_through(torch.where(torch.as_tensor(rectifier, device=x.device), x.clamp_min(lowest), x), cut)
