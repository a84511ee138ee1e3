"""Rounding and quantisation, with straight-through gradients."""

from typing import Any

import torch
from torch import Tensor

from robustcls.models.onnx.operators._values import ROUNDED, converted, limits
from robustcls.models.onnx.operators.layers import Conv
from robustcls.models.onnx.operators.straight import clamp, straight_through

_UINT8 = 2  # ONNX type number


def Round(x: Tensor) -> Tensor:
    return straight_through(x, x.round())


def Floor(x: Tensor) -> Tensor:
    return straight_through(x, x.floor())


def Ceil(x: Tensor) -> Tensor:
    return straight_through(x, x.ceil())


def QuantizeLinear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    saturate: int = 1,
) -> Tensor:
    """Return clamp(round(x / scale) + zero_point), as integers in x's floating-point type.

    A range that begins at the zero point also acts as a ReLU, which quantisers remove from the graph. output_dtype: the type of
    the zero point where there is one, because types of few bits are represented in a longer type.
    """
    scale = _along(scale, axis, x, block_size)
    levels = x / scale
    if output_dtype in ROUNDED:
        return converted(levels, output_dtype, saturate)
    if output_dtype or zero_point is None:
        lowest, highest = limits(output_dtype or _UINT8)
    else:
        lowest, highest = torch.iinfo(zero_point.dtype).min, torch.iinfo(zero_point.dtype).max
    zero = torch.zeros_like(scale) if zero_point is None else _along(zero_point.to(x.dtype), axis, x, block_size)
    q = (levels.round() + zero).clamp(lowest, highest)
    return straight_through(clamp(levels, lowest - zero, highest - zero, zero == lowest), q)


def DequantizeLinear(
    q: Tensor, scale: Tensor, zero_point: Tensor | None = None, *, axis: int = 1, block_size: int = 0
) -> Tensor:
    scale = _along(scale, axis, q, block_size)
    values = q.to(scale.dtype)
    if zero_point is not None:
        values = values - _along(zero_point.to(scale.dtype), axis, q, block_size)
    return values * scale


def QLinearConv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    **attributes: Any,
) -> Tensor:
    b = None if bias is None else bias.to(x_scale.dtype) * x_scale * w_scale
    weight = DequantizeLinear(w, w_scale, w_zero, axis=0)
    return QuantizeLinear(Conv(DequantizeLinear(x, x_scale, x_zero), weight, b, **attributes), y_scale, y_zero)


def QLinearMatMul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    product = DequantizeLinear(a, a_scale, a_zero, axis=-2) @ DequantizeLinear(b, b_scale, b_zero, axis=-1)
    return QuantizeLinear(product, y_scale, y_zero, axis=-1)


def DynamicQuantizeLinear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lowest, highest = x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)
    scale = torch.where(highest == lowest, 1.0, (highest - lowest) / 255)  # all zeros have no range
    zero = (-lowest / scale).round().clamp(0, 255)
    return straight_through(x / scale, ((x / scale).round() + zero).clamp(0, 255)), scale, zero


def MatMulInteger(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
    """Whole numbers in float32, exact below 2^24."""
    return _centred(a, a_zero, -2 if a_zero is not None and a_zero.ndim else 0) @ _centred(b, b_zero, -1)


def ConvInteger(
    x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None, **attributes: Any
) -> Tensor:
    """Whole numbers in float32, exact below 2^24."""
    return Conv(_centred(x, x_zero, 0), _centred(w, w_zero, 0), **attributes)


def _centred(q: Tensor, zero_point: Tensor | None, axis: int) -> Tensor:
    return q.float() if zero_point is None else q.float() - _along(zero_point.float(), axis, q)


def _along(values: Tensor, axis: int, x: Tensor, block_size: int = 0) -> Tensor:
    """Return values in a shape that broadcasts over x: a scalar, or one value per entry or block of entries along an axis."""
    if values.numel() == 1:
        return values.reshape(())
    if block_size:
        return values.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = -1
    return values.reshape(shape)
