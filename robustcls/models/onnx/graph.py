"""The network of an ONNX file as a differentiable PyTorch module: the twin, which provides gradients for the file."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from robustcls.core.errors import one_line
from robustcls.models.onnx.operators import ROUNDING
from robustcls.models.onnx.reading import (
    NoTwin,
    constants_of,
    function_of,
    in_order,
    opset_of,
    prepared,
    read,
    title_of,
    types_of,
)
from robustcls.runtime.memory import is_out_of_memory


class Node(nn.Module):
    """An operator of the file. It is a module, so that attribution methods can hook it."""

    def __init__(
        self, run: Callable[..., Any], inputs: list[str], outputs: list[str], attributes: dict[str, Any], title: str
    ) -> None:
        super().__init__()
        self.run, self.inputs, self.outputs, self.attributes, self.title = run, inputs, outputs, attributes, title
        self.done_with: list[str] = []  # values that no later node uses, which can be freed

    def forward(self, *values: Tensor | None) -> Any:
        try:
            return self.run(*values, **self.attributes)
        except Exception as error:  # any class: an unsupported use of an operator can raise anything
            if is_out_of_memory(error):
                raise
            raise NoTwin(f"{self.title} has no gradient here as this file uses it: {one_line(error)}") from error

    def named(self, result: Any) -> Iterable[tuple[str, Any]]:
        """Return the results of `forward` by the names of the outputs. Raises NoTwin where there are fewer than are used."""
        given = result if isinstance(result, tuple) else (result,)
        if len(given) < len(self.outputs):
            raise NoTwin(f"{self.title} has no gradient here with {len(self.outputs)} outputs")
        return zip(self.outputs, given, strict=False)


class Convolution(Node):
    """A Conv operator, which attribution methods treat like `nn.Conv2d`."""

    is_convolution = True


class OnnxGraph(nn.Module):
    """Runs an ONNX graph with one input and one output, node by node, in PyTorch.

    It maps images N,C,H,W to the output of the file, differentiable with respect to the images; rounding operators pass
    gradients straight through. Values that do not depend on the images, such as the dequantised weights of an int8 file, are
    computed only once.
    """

    def __init__(self, path: str) -> None:
        """Raises NoTwin, which names unsupported operators, and InputError for a file that cannot be read."""
        super().__init__()
        model = read(path)
        graph, opset, types = model.graph, opset_of(model), types_of(model.graph)
        constants = constants_of(graph)
        self._input = next(one.name for one in graph.input if one.name not in constants)
        self._output = graph.output[0].name
        nodes = in_order(graph, {*constants, self._input})
        self.rounds = any(node.op_type in ROUNDING for node in nodes)
        unknown = sorted({title_of(node) for node in nodes if function_of(node) is None})
        if unknown:
            raise NoTwin(f"{path} has operators without a gradient here: {', '.join(unknown)}")
        taken = {name for node in nodes for name in node.input} | {self._output}
        self.nodes = nn.ModuleDict()
        for number, node in enumerate(nodes):
            run, attributes = prepared(node, opset, types)
            title, outputs = title_of(node), list(node.output)
            while outputs and outputs[-1] not in taken:
                outputs.pop()
            kind = Convolution if node.op_type == "Conv" else Node
            made = kind(run, list(node.input), outputs, attributes, title)
            if all(name in constants or not name for name in node.input):
                constants.update(made.named(made(*_arguments(node.input, constants))))
            else:
                plain = _identifier(node.name)
                free = plain and not hasattr(self.nodes, plain)
                self.nodes[plain if free else f"{_identifier(title)}_{number}"] = made
        self._order: list[Any] = list(self.nodes.values())
        used = {name for node in self._order for name in node.inputs} | {self._output}
        # Constants are buffers, so that they move with the module. They are numbered, because their names may contain dots.
        self._places = {}
        for number, name in enumerate(name for name in constants if name in used):
            self._places[name] = f"constant_{number}"
            self.register_buffer(f"constant_{number}", constants[name])
        last = {name: node for node in self._order for name in node.inputs}
        for name, node in last.items():
            if name and name not in self._places and name != self._output:
                node.done_with.append(name)

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {name: getattr(self, place) for name, place in self._places.items()} | {self._input: x}
        for node in self._order:
            values.update(node.named(node(*_arguments(node.inputs, values))))
            for name in node.done_with:
                values.pop(name, None)
        return values[self._output]


def _arguments(names: Iterable[str], values: dict[str, Tensor]) -> list[Tensor | None]:
    return [values[name] if name else None for name in names]


def _identifier(name: str) -> str:
    """Return a name that is valid for a submodule."""
    return name.replace(".", "_").replace("/", "_").strip("_")
