"""Floating-point operators of the domain com.microsoft, which onnxruntime's optimiser writes."""

from typing import Any

import torch
from torch import Tensor

from robustcls.models.onnx.operators import activations
from robustcls.models.onnx.operators.layers import Conv


def FusedConv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    added: Tensor | None = None,
    *,
    activation: str = "",
    activation_params: Any = (),
    **attributes: Any,
) -> Tensor:
    y = Conv(x, w, b, **attributes)
    y = y if added is None else y + added
    if activation in ("Relu", "Sigmoid", "Tanh"):
        return getattr(activations, activation)(y)
    if activation == "LeakyRelu":
        return activations.LeakyRelu(y, alpha=activation_params[0])
    if activation == "Clip":
        return activations.Clip(y, *activation_params)
    if activation == "HardSigmoid":
        return activations.HardSigmoid(y, alpha=activation_params[0], beta=activation_params[1])
    raise NotImplementedError(f"FusedConv with activation {activation}")


def Gelu(x: Tensor) -> Tensor:
    return activations.Gelu(x)


def QuickGelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return x * torch.sigmoid(alpha * x)
