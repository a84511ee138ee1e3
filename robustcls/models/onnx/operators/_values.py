"""Types and integers in ONNX files."""

from typing import Any

import torch
from torch import Tensor

from robustcls.models.onnx.operators.straight import straight_through

TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 11: torch.float64, 12: torch.uint32, 13: torch.uint64,
}  # fmt: skip
ROUNDED = {  # types below single precision, which are represented in float32, so that gradients do not underflow
    10: torch.float16, 16: torch.bfloat16, 17: torch.float8_e4m3fn, 18: torch.float8_e4m3fnuz, 19: torch.float8_e5m2,
    20: torch.float8_e5m2fnuz,
}  # fmt: skip
_FEW_BITS = {21: (0, 15), 22: (-8, 7), 25: (0, 3), 26: (-2, 1)}  # represented in int8


def limits(number: int) -> tuple[int, int]:
    """Return the smallest and the largest integer of a type, given by its ONNX number."""
    if number in _FEW_BITS:
        return _FEW_BITS[number]
    info = torch.iinfo(_known(TYPES, number))
    return info.min, info.max


def converted(x: Tensor, number: int, saturate: int = 1) -> Tensor:
    """Convert x to a type, given by its ONNX number; rounding passes the gradient straight through.

    Integers computed from a tensor with a gradient therefore stay in floating point, as in QuantizeLinear. Others, such as
    shapes and indices that a file computes, are PyTorch integers.
    """
    if number not in ROUNDED:
        values = x.to(_known(TYPES, number))
        rounds = x.requires_grad and not values.is_floating_point() and values.dtype != torch.bool
        return straight_through(x, values.to(x.dtype)) if rounds else values
    dtype = ROUNDED[number]
    if saturate and dtype.itemsize == 1:
        x = x.clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    return straight_through(x.float(), x.detach().to(dtype).float())


def _known(types: dict[int, torch.dtype], number: int) -> torch.dtype:
    if number not in types:
        raise NotImplementedError(f"the type that the standard numbers {number}")
    return types[number]


def ints(values: Any) -> list[int]:
    """Return the integers of an attribute or of an input tensor as a list."""
    if values is None:
        return []
    return [int(value) for value in (values.flatten().tolist() if isinstance(values, Tensor) else values)]
