"""Convolution, pooling and normalisation."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CONV: tuple[Any, ...] = (F.conv1d, F.conv2d, F.conv3d)  # by the number of dimensions
_TRANSPOSED: tuple[Any, ...] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX: tuple[Any, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
_AVERAGE: tuple[Any, ...] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


def Conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    n = w.ndim - 2
    strides, dilations = strides or [1] * n, dilations or [1] * n
    before, after, _ = _sides(x, w.shape[2:], strides, dilations, auto_pad, pads)
    x, padding = (x, before) if before == after else (_padded(x, before, after, 0.0), 0)
    return _CONV[n - 1](x, w, b, strides, padding, dilations, group)


def ConvTranspose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    n = w.ndim - 2
    sides = list(pads or [0] * 2 * n)
    if auto_pad not in ("NOTSET", "VALID") or sides[:n] != sides[n:]:
        raise NotImplementedError("ConvTranspose with pads that differ between the sides, or auto_pad")
    return _TRANSPOSED[n - 1](
        x, w, b, strides or [1] * n, sides[:n], output_padding or [0] * n, group, dilations or [1] * n
    )


def MaxPool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Tensor:
    n = len(kernel_shape)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    before, after, beyond = _sides(x, kernel_shape, strides, dilations, auto_pad, pads, ceil_mode)
    if _layer_can_pad(before, after, kernel_shape):
        return _MAX[n - 1](x, list(kernel_shape), strides, before, dilations, bool(ceil_mode))
    x = _padded(_padded(x, before, after, -math.inf), [0] * n, beyond, -math.inf)
    return _MAX[n - 1](x, list(kernel_shape), strides, 0, dilations)


def AveragePool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    n = len(kernel_shape)
    strides = strides or [1] * n
    if any(step != 1 for step in dilations or ()):
        raise NotImplementedError("AveragePool with dilations")
    before, after, beyond = _sides(x, kernel_shape, strides, [1] * n, auto_pad, pads, ceil_mode)
    if _layer_can_pad(before, after, kernel_shape):
        return _average(x, kernel_shape, strides, before, bool(ceil_mode), bool(count_include_pad))
    padded, counted = (
        _padded(_padded(values, before, after, side), [0] * n, beyond, 0.0)
        for values, side in ((x, 0.0), (torch.ones_like(x[:1, :1]), float(count_include_pad)))
    )
    return _average(padded, kernel_shape, strides) / _average(counted, kernel_shape, strides)


def _average(x: Tensor, kernel: Sequence[int], strides: Sequence[int], *options: Any) -> Tensor:
    return _AVERAGE[len(kernel) - 1](x, list(kernel), strides, *options)


def _sides(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    auto_pad: str,
    pads: Sequence[int] | None,
    ceil_mode: int = 0,
) -> tuple[list[int], list[int], list[int]]:
    """Return the padding before and after each dimension, and how far the last window of a ceil_mode reaches beyond it.

    The last value is negative where the window ends before the padding does. A window that would begin in the padding at the
    end does not count.
    """
    n = len(kernel)
    sides = list(pads or [0] * 2 * n)
    before, after, beyond = sides[:n], sides[n:], [0] * n
    sizes = zip(x.shape[2:], kernel, strides, dilations, strict=True)
    for i, (size, k, stride, dilation) in enumerate(sizes):
        span = dilation * (k - 1) + 1
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            total = max((math.ceil(size / stride) - 1) * stride + span - size, 0)
            before[i] = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            after[i] = total - before[i]
        if ceil_mode:
            padded = before[i] + size + after[i]
            last = math.ceil((padded - span) / stride)
            last -= last * stride >= before[i] + size
            beyond[i] = last * stride + span - padded
    return before, after, beyond


def _layer_can_pad(before: list[int], after: list[int], kernel: Sequence[int]) -> bool:
    """Whether PyTorch's pooling supports this padding."""
    return before == after and all(2 * pad <= k for pad, k in zip(before, kernel, strict=True))


def _padded(x: Tensor, before: list[int], after: list[int], value: float) -> Tensor:
    edges = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
    return F.pad(x, edges, value=value)


def GlobalAveragePool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def GlobalMaxPool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


def BatchNormalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
) -> Tensor:
    return F.batch_norm(x, mean, var, scale, b, training=False, eps=epsilon)


def InstanceNormalization(x: Tensor, scale: Tensor, b: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=b, eps=epsilon)


def GroupNormalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    each = x.shape[1] // len(scale)  # before opset 21 one value per group, since then one per channel
    return F.group_norm(x, num_groups, scale.repeat_interleave(each), b.repeat_interleave(each), epsilon)


def LayerNormalization(
    x: Tensor,
    scale: Tensor,
    b: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    shape = x.shape[axis:]
    return F.layer_norm(x, shape, scale.expand(shape), None if b is None else b.expand(shape), epsilon)


def LRN(x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0) -> Tensor:
    return F.local_response_norm(x, size, alpha, beta, bias)


def Dropout(x: Tensor, ratio: Any = 0.5, training: Tensor | None = None, *, seed: int = 0, outputs: int) -> Any:
    if training is not None and training.item():
        raise NotImplementedError("Dropout that drops")
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))
