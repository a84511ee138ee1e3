"""Types and whole numbers as ONNX writes them."""

from typing import Any

import torch
from torch import Tensor

TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


def ints(values: Any) -> list[int]:
    """Whole numbers of an attribute or of an input tensor."""
    if values is None:
        return []
    return [int(value) for value in (values.flatten().tolist() if isinstance(values, Tensor) else values)]
