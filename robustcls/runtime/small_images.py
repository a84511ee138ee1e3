"""Convolutions of small images as matrix products, which a CPU computes faster.

The last layers of a network see images of 4x4 and 2x2 pixels. For these, oneDNN needs more time for the gradient of the weights
than a matrix product with the same number of operations. Every output of a 3x3 convolution on 2x2 pixels sees the whole image,
so that the convolution is a linear layer.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.overrides import TorchFunctionMode

# Measured on AMX: up to PIXELS pixels the product is faster; up to PIXELS_OF_MANY, only where input and output have at least
# MANY channels.
PIXELS, PIXELS_OF_MANY, MANY = 16, 64, 128


def small_convolutions(device: torch.device) -> AbstractContextManager:
    """Return a context in which 3x3 convolutions of small images on a CPU run as matrix products, forward and backward.

    It intercepts the convolution function, so modules, their weights and their hooks are not changed. Sums are computed in
    another order.
    """
    return _SmallConvolutions() if device.type == "cpu" else nullcontext()


class _SmallConvolutions(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        small = function is torch.conv2d and not torch.compiler.is_compiling()
        if small and (operands := _operands(*args, **kwargs)):
            return _Convolution.apply(*operands)
        return function(*args, **kwargs)


def _operands(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Return images, weight and bias in the dtype that autocast would use; None for a convolution that should run unchanged.

    The arguments have the names of those of `torch.conv2d`, because they may be passed by keyword.
    """
    tensors = [input, weight] if bias is None else [input, weight, bias]
    if (
        not all(type(one) in (Tensor, torch.nn.Parameter) and one.device.type == "cpu" for one in tensors)
        or (input.ndim, groups, tuple(weight.shape[2:])) != (4, 1, (3, 3))
        or (_pair(stride), _pair(padding), _pair(dilation)) != ((1, 1), (1, 1), (1, 1))
        or not 0 < input.shape[2] * input.shape[3] <= PIXELS_OF_MANY
        or input.shape[1] != weight.shape[1]
        or len(input) == 0
        or _transformed()
    ):
        return None
    if torch.is_autocast_enabled("cpu") and torch.float64 not in [one.dtype for one in tensors]:
        tensors = [one.to(torch.get_autocast_dtype("cpu")) for one in tensors]
    if len({one.dtype for one in tensors}) > 1:
        return None
    input, weight = tensors[:2]
    if not (_sees_all(input) or (weight.requires_grad and _weight_by_product(input, weight))):
        return None
    return input, weight, None if bias is None else tensors[2]


def _pair(value: Any) -> tuple:
    """Return a stride, padding or dilation as a pair; a word such as `same` gives no pair."""
    return tuple(value) * (3 - len(value)) if isinstance(value, Sequence) else (value, value)


def _transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is active, or a dispatch mode, such as a counter of operations.

    torch.func and forward-mode differentiation would need formulas of their own here.
    """
    return (
        torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )


def _sees_all(x: Tensor) -> bool:
    """Whether each output of a 3x3 convolution of x sees the whole image."""
    return max(x.shape[2:]) <= 2


def _weight_by_product(x: Tensor, weight: Tensor) -> bool:
    """Whether a matrix product computes the weight's gradient faster: in 16 bits, and in fp32 only on the smallest images."""
    if x.element_size() != 2:
        return _sees_all(x)
    pixels = x.shape[2] * x.shape[3]
    return pixels <= PIXELS or (pixels <= PIXELS_OF_MANY and min(weight.shape[:2]) >= MANY)


class _Convolution(torch.autograd.Function):
    """The 3x3 convolution of images N,C,H,W with weights O,C,3,3, padded by 1. Its gradients can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The two that PyTorch's own keeps: where a part is passed again on the way back, it is outside of this mode.
        ctx.save_for_backward(x, weight)
        ctx.matrix = None
        if not _sees_all(x):
            return F.conv2d(x, weight, bias, padding=1)
        # Made in its shape, not as a view, for ReLU may write on it.
        shape = (len(x), len(weight), *x.shape[2:])
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        matrix, rows = as_matrix(weight, *x.shape[2:]), out.permute(0, 2, 3, 1).view(len(x), -1)
        if not ctx.needs_input_grad[1]:  # otherwise recomputed: a stored one could not be differentiated
            ctx.matrix = matrix
        if bias is None:
            torch.mm(_by_pixels(x), matrix.t(), out=rows)
        else:
            torch.addmm(bias.repeat(x.shape[2] * x.shape[3]), _by_pixels(x), matrix.t(), out=rows)
        as_torch_does = x.is_contiguous() and weight.is_contiguous()  # a later `view` may depend on the memory format
        return out.contiguous() if as_torch_does else out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _gradient_of_images(grad, x, weight, ctx.matrix)
        if ctx.needs_input_grad[1]:
            of_weight = _gradient_of_weight(grad, x, weight)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def _gradient_of_images(grad: Tensor, x: Tensor, weight: Tensor, matrix: Tensor | None) -> Tensor:
    if not _sees_all(x):
        return conv2d_input(x.shape, weight, grad, padding=1)
    count, channels, height, width = x.shape
    product = _by_pixels(grad) @ (as_matrix(weight, height, width) if matrix is None else matrix)
    return product.view(count, height, width, channels).permute(0, 3, 1, 2)


def _gradient_of_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    if not _weight_by_product(x, weight):
        return conv2d_weight(x, weight.shape, grad, padding=1)
    outputs, channels = weight.shape[:2]
    product = grad.permute(0, 2, 3, 1).reshape(-1, outputs).t() @ neighbourhoods(x)
    return product.view(outputs, 3, 3, channels).permute(0, 3, 1, 2)


def neighbourhoods(x: Tensor) -> Tensor:
    """Return the inputs of a 3x3 convolution with padding 1 at each pixel of images N,C,H,W: N*H*W rows of 3*3*C values."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, 1).unfold(2, 3, 1)  # N,H,W,C,3,3
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[1])


def as_matrix(weight: Tensor, height: int, width: int) -> Tensor:
    """Return a 3x3 convolution with padding 1 on images of at most 2x2 pixels as a matrix, shape H*W*O, H*W*C."""
    by_place = weight.permute(0, 2, 3, 1)  # O,3,3,C
    rows = [
        by_place[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width].flatten(1)
        for down in range(height)
        for right in range(width)
    ]
    return torch.cat(rows)


def _by_pixels(x: Tensor) -> Tensor:
    """Return images N,C,H,W as N rows of H*W*C values."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1)
