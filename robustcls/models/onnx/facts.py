"""Facts about an ONNX file that are read without running it."""

import math
from dataclasses import dataclass
from pathlib import Path

from robustcls.core.errors import InputError, one_line

ROUNDING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
# Inputs of operators that are not weights or biases: scales, zero points, and the constants that normalise pixels.
NO_WEIGHTS = {
    "Sub": (0, 1),
    "Div": (0, 1),
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
}


@dataclass
class OnnxFacts:
    """Facts about a file with one input and one output."""

    opset: int  # of the standard operators
    input: str
    output: str
    parameters: int  # number of weights and biases; without scales, zero points, shapes and constants of normalisation
    rounded: bool  # whether it contains quantisation operators

    @property
    def kind(self) -> str:
        return "int8" if self.rounded else "fp32"

    @classmethod
    def of(cls, path: str | Path) -> "OnnxFacts":
        """Read the facts of a file. Raises InputError where it cannot be read, ImportError where onnx is not installed."""
        import onnx

        try:
            model = onnx.load(str(path), load_external_data=False)
        except Exception as error:  # exceptions of protobuf and onnx have no common base class
            raise InputError(f"cannot read {path}: {one_line(error):.160}: export it again") from None
        graph = model.graph
        constants = {one.name for one in graph.initializer}
        other = {
            name for node in graph.node for at, name in enumerate(node.input) if at in NO_WEIGHTS.get(node.op_type, ())
        }
        numbers = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING)  # shapes, axes, masks
        return cls(
            opset=next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 1),
            input=next(one.name for one in graph.input if one.name not in constants),
            output=graph.output[0].name,
            parameters=sum(
                math.prod(one.dims)
                for one in graph.initializer
                if one.dims and one.name not in other and one.data_type not in numbers
            ),
            rounded=any(node.op_type in ROUNDING or node.op_type.startswith("QLinear") for node in graph.node),
        )
