"""The operators of ONNX that image classifiers use, as PyTorch functions under the names of the standard.

A node's inputs are positional, its attributes are keywords of the same name. Where an attribute of an early version of the
standard became an input later, both arrive under one name. A function that depends on the version takes `opset`, one that
depends on how many values the node gives takes `outputs`. What a function does not cover raises NotImplementedError.

Semantics: https://onnx.ai/onnx/operators/
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from robustcls.models.onnx.operators import activations, arithmetic, fused, layers, microsoft, rounding, shapes


def _of(*modules: ModuleType) -> dict[str, Callable[..., Any]]:
    return {
        name: function
        for module in modules
        for name, function in vars(module).items()
        if name[0].isupper() and getattr(function, "__module__", "") == module.__name__
    }


STANDARD = _of(activations, arithmetic, layers, rounding, shapes)
_MICROSOFT = _of(microsoft, fused) | {name: STANDARD[name] for name in ("QuantizeLinear", "DequantizeLinear")}
OPERATORS = {"": STANDARD, "ai.onnx": STANDARD, "com.microsoft": _MICROSOFT}  # by domain, then name

# What rounds, or holds what was rounded: onnxruntime may round more than the file says.
ROUNDING = {*_of(rounding), *_of(microsoft), "Cast", "CastLike"}
