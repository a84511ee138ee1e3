"""The network of an ONNX file as a differentiable PyTorch module: the file's twin, which gives it gradients."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError, one_line
from robustcls.models.onnx.operators import OPERATORS

_DOMAINS = ("", "ai.onnx")


class NoTwin(InputError):
    """Why a file has no twin, such as an operator that `operators/` lacks."""


class Node(nn.Module):
    """One operator, under the name that it has in the file; a module, so that attribution methods can hook it."""

    def __init__(
        self, run: Callable[..., Any], inputs: list[str], outputs: list[str], attributes: dict[str, Any], title: str
    ) -> None:
        super().__init__()
        self.run, self.inputs, self.outputs, self.attributes, self.title = run, inputs, outputs, attributes, title
        self.done_with: list[str] = []  # values that nothing after this node takes

    def forward(self, *values: Tensor | None) -> Any:
        try:
            return self.run(*values, **self.attributes)
        except (NotImplementedError, TypeError, RuntimeError, IndexError) as error:
            raise NoTwin(f"{self.title} has no gradient here as this file uses it: {one_line(error)}") from error


class Convolution(Node):
    """An operator Conv: to attribution methods what `nn.Conv2d` is."""

    is_convolution = True


class OnnxGraph(nn.Module):
    """Runs an ONNX graph of one input and one output, node by node, in PyTorch.

    x: N,C,H,W to what the file gives, differentiable by x; rounding passes gradients straight through. What does not depend
    on x, such as the weights of an int8 file in floating point, is computed once.
    """

    def __init__(self, path: str) -> None:
        """Raises NoTwin, which names the operators; InputError for a file that cannot be read."""
        super().__init__()
        model = _read(path)
        graph = model.graph
        opset = next((one.version for one in model.opset_import if one.domain in _DOMAINS), 1)
        unknown = sorted({_title(node) for node in graph.node if _function(node) is None})
        if unknown:
            raise NoTwin(f"{path} has operators without a gradient here: {', '.join(unknown)}")
        import onnx

        constants = {one.name: _tensor(onnx.numpy_helper.to_array(one)) for one in graph.initializer}
        self._input = next(one.name for one in graph.input if one.name not in constants)
        self._output = graph.output[0].name
        nodes = []
        for node in graph.node:
            run, attributes = _prepared(node, opset)
            if all(name in constants or not name for name in node.input):
                values = Node(run, [], [], attributes, _title(node))(*_arguments(node.input, constants))
                constants.update(zip(node.output, values if isinstance(values, tuple) else (values,), strict=False))
            else:
                kind = Convolution if node.op_type == "Conv" else Node
                nodes.append((node.name, kind(run, list(node.input), list(node.output), attributes, _title(node))))
        self.nodes = nn.ModuleDict()
        for number, (name, node) in enumerate(nodes):
            plain = name.replace(".", "_").replace("/", "_").strip("_")
            self.nodes[plain if plain and not hasattr(self.nodes, plain) else f"{node.title}_{number}"] = node
        self._order = [node for _, node in nodes]
        used = {name for _, node in nodes for name in node.inputs} | {self._output}
        self._places = {}  # buffers, so that they move with the module: their own names may hold dots
        for number, name in enumerate(name for name in constants if name in used):
            self._places[name] = f"constant_{number}"
            self.register_buffer(f"constant_{number}", constants[name])
        last = {name: node for _, node in nodes for name in node.inputs}
        for name, node in last.items():
            if name and name not in self._places and name != self._output:
                node.done_with.append(name)

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {name: getattr(self, place) for name, place in self._places.items()} | {self._input: x}
        for node in self._order:
            result = node(*_arguments(node.inputs, values))
            values.update(zip(node.outputs, result if isinstance(result, tuple) else (result,), strict=False))
            for name in node.done_with:
                values.pop(name, None)
        return values[self._output]


def _arguments(names: Any, values: dict[str, Tensor]) -> list[Tensor | None]:
    return [values[name] if name else None for name in names]


def _read(path: str) -> Any:
    try:
        import onnx
        import onnx.inliner
    except ImportError:
        raise NoTwin(f"gradients of {path} need onnx: pip install 'robustcls[onnx]'") from None
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's own have no class in common
        raise InputError(f"cannot read {path}: {one_line(error):.160}: export it again") from None
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _title(node: Any) -> str:
    return node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"


def _function(node: Any) -> Callable[..., Any] | None:
    return OPERATORS.get(node.domain, {}).get(node.op_type)


def _prepared(node: Any, opset: int) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function of a node and its attributes as keywords."""
    import onnx

    run = _function(node)
    assert run is not None
    attributes: dict[str, Any] = {}
    for one in node.attribute:
        value = onnx.helper.get_attribute_value(one)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = _tensor(onnx.numpy_helper.to_array(value))
        attributes[one.name] = value
    if node.op_type == "Constant":  # value, value_float, value_ints ...
        return run, {"value": next(iter(attributes.values()))}
    expected = inspect.signature(run).parameters
    if "opset" in expected:
        attributes["opset"] = opset
    if "outputs" in expected:
        attributes["outputs"] = len(node.output)
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in expected.values())
    odd = sorted(attributes.keys() - expected.keys())
    if odd and not takes_all:
        raise NoTwin(f"{_title(node)} with {', '.join(odd)} has no gradient here")
    return run, attributes


def _tensor(array: Any) -> Tensor:
    """A copy, for what a file's bytes hold cannot be written on."""
    return torch.from_numpy(array.copy())
