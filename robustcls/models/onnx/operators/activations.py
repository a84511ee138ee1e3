"""Activations."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcls.models.onnx.operators.straight import clamp


def Relu(x: Tensor) -> Tensor:
    return F.relu(x)


def LeakyRelu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def ThresholdedRelu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.threshold(x, alpha, 0.0)


def PRelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def Elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def Selu(x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Tensor:
    return gamma * F.elu(x, alpha)


def Celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.celu(x, alpha)


def Swish(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return x * (alpha * x).sigmoid()


def Gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def Sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


def HardSigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0, 1)


def HardSwish(x: Tensor) -> Tensor:
    return F.hardswish(x)


def Tanh(x: Tensor) -> Tensor:
    return x.tanh()


def Softplus(x: Tensor) -> Tensor:
    return F.softplus(x)


def Softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


def Mish(x: Tensor) -> Tensor:
    return F.mish(x)


def Clip(x: Tensor, min: Any = None, max: Any = None) -> Tensor:
    lower, upper = (None if value is None else float(value) for value in (min, max))
    return x if lower is upper is None else clamp(x, lower, upper, rectifier=lower == 0)


def Softmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    flat, axis = _from_axis(x, axis, opset)
    return flat.softmax(axis).reshape(x.shape)


def LogSoftmax(x: Tensor, *, axis: int | None = None, opset: int) -> Tensor:
    flat, axis = _from_axis(x, axis, opset)
    return flat.log_softmax(axis).reshape(x.shape)


def _from_axis(x: Tensor, axis: int | None, opset: int) -> tuple[Tensor, int]:
    """Return x and the dimension of a softmax: one dimension, but before opset 13 all from the axis on, flattened."""
    if opset >= 13:
        return x, -1 if axis is None else axis
    axis = 1 if axis is None else axis % x.ndim
    return x.flatten(axis), axis
