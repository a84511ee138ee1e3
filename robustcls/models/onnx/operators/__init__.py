"""The ONNX operators that image classifiers use, as PyTorch functions with the names of the standard.

The inputs of a node are positional arguments, its attributes keyword arguments of the same names. Where an attribute of an
early version of the standard later became an input, both use the same parameter. A function that depends on the version takes
`opset`, and one that depends on the number of outputs takes `outputs`. Unsupported cases raise NotImplementedError.

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

# Operators that round, or use rounded values. With these, onnxruntime may round more often than the file says.
ROUNDING = {*_of(rounding), *_of(microsoft), "Cast", "CastLike"}
