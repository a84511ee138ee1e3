"""Sums, products, element-wise functions, comparisons and type conversions."""

from typing import Any

import torch
from torch import Tensor

from robustcls.models.onnx.operators._values import TYPES, converted, ints


def Add(a: Tensor, b: Tensor) -> Tensor:
    return a + b


def Sub(a: Tensor, b: Tensor) -> Tensor:
    return a - b


def Mul(a: Tensor, b: Tensor) -> Tensor:
    return a * b


def Div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def Mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def Pow(a: Tensor, b: Tensor) -> Tensor:
    return a.pow(b)


def Sum(*inputs: Tensor) -> Tensor:
    return sum(inputs[1:], inputs[0])


def Mean(*inputs: Tensor) -> Tensor:
    return Sum(*inputs) / len(inputs)


def Min(first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = torch.minimum(first, other)
    return first


def Max(first: Tensor, *others: Tensor) -> Tensor:
    for other in others:
        first = torch.maximum(first, other)
    return first


def Neg(x: Tensor) -> Tensor:
    return -x


def Abs(x: Tensor) -> Tensor:
    return x.abs()


def Sqrt(x: Tensor) -> Tensor:
    return x.sqrt()


def Reciprocal(x: Tensor) -> Tensor:
    return 1 / x


def Exp(x: Tensor) -> Tensor:
    return x.exp()


def Log(x: Tensor) -> Tensor:
    return x.log()


def Sin(x: Tensor) -> Tensor:
    return x.sin()


def Cos(x: Tensor) -> Tensor:
    return x.cos()


def Erf(x: Tensor) -> Tensor:
    return x.erf()


def MatMul(a: Tensor, b: Tensor) -> Tensor:
    return a @ b


def Gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    product = alpha * ((a.mT if transA else a) @ (b.mT if transB else b))
    return product if c is None else product + beta * c


def Einsum(*inputs: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *inputs)


def Constant(*, value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def Identity(x: Tensor) -> Tensor:
    return x


def ConstantOfShape(shape: Tensor, *, value: Tensor | None = None) -> Tensor:
    fill = torch.zeros(1) if value is None else value
    return fill.to(shape.device).reshape(()).expand(ints(shape)).clone()


def Range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype, device=start.device)


def Cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    """Convert the type; values with a gradient stay in floating point, see `converted`."""
    return converted(x, to, saturate)


def CastLike(x: Tensor, like: Tensor, *, saturate: int = 1) -> Tensor:
    return converted(x, next(number for number, dtype in TYPES.items() if dtype == like.dtype), saturate)


def Size(x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), device=x.device)


def Where(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


def Equal(a: Tensor, b: Tensor) -> Tensor:
    return a == b


def Less(a: Tensor, b: Tensor) -> Tensor:
    return a < b


def Greater(a: Tensor, b: Tensor) -> Tensor:
    return a > b


def LessOrEqual(a: Tensor, b: Tensor) -> Tensor:
    return a <= b


def GreaterOrEqual(a: Tensor, b: Tensor) -> Tensor:
    return a >= b


def And(a: Tensor, b: Tensor) -> Tensor:
    return a & b


def Or(a: Tensor, b: Tensor) -> Tensor:
    return a | b


def Not(x: Tensor) -> Tensor:
    return ~x


def Sign(x: Tensor) -> Tensor:
    return x.sign()
