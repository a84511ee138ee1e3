"""Quantised operators of the domain com.microsoft, which onnxruntime's quantiser writes."""

from typing import Any

import torch
from torch import Tensor

from robustcls.models.onnx.operators.activations import LeakyRelu
from robustcls.models.onnx.operators.arithmetic import Gemm
from robustcls.models.onnx.operators.layers import AveragePool
from robustcls.models.onnx.operators.rounding import DequantizeLinear, QuantizeLinear


def QGemm(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    c: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero: Tensor | None = None,
    *,
    alpha: float = 1.0,
    transB: int = 0,
    **attributes: Any,
) -> Tensor:
    weight = DequantizeLinear(b, b_scale, b_zero, axis=0 if transB else 1)
    bias = None if c is None else c.to(a_scale.dtype) * alpha * a_scale * b_scale
    y = Gemm(DequantizeLinear(a, a_scale, a_zero), weight, bias, alpha=alpha, transB=transB, **attributes)
    return y if y_scale is None else QuantizeLinear(y, y_scale, y_zero)


def QLinearAdd(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, *y: Tensor
) -> Tensor:
    return QuantizeLinear(DequantizeLinear(a, a_scale, a_zero) + DequantizeLinear(b, b_scale, b_zero), *y)


def QLinearMul(
    a: Tensor, a_scale: Tensor, a_zero: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor, *y: Tensor
) -> Tensor:
    return QuantizeLinear(DequantizeLinear(a, a_scale, a_zero) * DequantizeLinear(b, b_scale, b_zero), *y)


def QLinearSigmoid(x: Tensor, x_scale: Tensor, x_zero: Tensor, *y: Tensor) -> Tensor:
    return QuantizeLinear(DequantizeLinear(x, x_scale, x_zero).sigmoid(), *y)


def QLinearLeakyRelu(x: Tensor, x_scale: Tensor, x_zero: Tensor, *y: Tensor, alpha: float = 0.01) -> Tensor:
    return QuantizeLinear(LeakyRelu(DequantizeLinear(x, x_scale, x_zero), alpha=alpha), *y)


def QLinearAveragePool(
    x: Tensor, x_scale: Tensor, x_zero: Tensor, *y: Tensor, channels_last: int = 0, **attributes: Any
) -> Tensor:
    if channels_last:
        raise NotImplementedError("QLinearAveragePool with channels_last")
    return QuantizeLinear(AveragePool(DequantizeLinear(x, x_scale, x_zero), **attributes), *y)


def QLinearGlobalAveragePool(x: Tensor, x_scale: Tensor, x_zero: Tensor, *y: Tensor, channels_last: int = 0) -> Tensor:
    if channels_last:
        raise NotImplementedError("QLinearGlobalAveragePool with channels_last")
    return QuantizeLinear(DequantizeLinear(x, x_scale, x_zero).mean(tuple(range(2, x.ndim)), keepdim=True), *y)


def QLinearConcat(y_scale: Tensor, y_zero: Tensor, *inputs: Tensor, axis: int) -> Tensor:
    parts = [DequantizeLinear(*inputs[i : i + 3]) for i in range(0, len(inputs), 3)]
    return QuantizeLinear(torch.cat(parts, axis), y_scale, y_zero)
