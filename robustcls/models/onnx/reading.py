"""Reads ONNX files: nodes in an executable order, constants as tensors, attributes as keyword arguments."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError, one_line
from robustcls.models.onnx.operators import OPERATORS

_DOMAINS = ("", "ai.onnx")


class NoTwin(InputError):
    """A file cannot have a twin, for instance because `operators/` lacks one of its operators."""


def read(path: str) -> Any:
    """Read the model of a file, and inline its functions. Raises NoTwin without onnx, InputError for another kind of file."""
    try:
        import onnx
        import onnx.inliner
    except ImportError:
        raise NoTwin(f"gradients of {path} need onnx: pip install 'robustcls[onnx]'") from None
    try:
        model = onnx.load(path)
    except Exception as error:  # exceptions of protobuf and onnx have no common base class
        raise InputError(f"cannot read {path}: {one_line(error):.160}: export it again") from None
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def opset_of(model: Any) -> int:
    """Return the version of the standard operators in a model."""
    return next((one.version for one in model.opset_import if one.domain in _DOMAINS), 1)


def title_of(node: Any) -> str:
    """Return the name of a node's operator, with its domain unless it is the standard one."""
    return node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"


def function_of(node: Any) -> Callable[..., Any] | None:
    """Return the PyTorch function of a node's operator; None where there is none."""
    return OPERATORS.get(node.domain, {}).get(node.op_type)


def constants_of(graph: Any) -> dict[str, Tensor]:
    """Return the initializers by name, except texts, which image models do not use."""
    import onnx

    dense = {one.name: tensor(one) for one in graph.initializer if one.data_type != onnx.TensorProto.STRING}
    return dense | {one.values.name: tensor(one) for one in graph.sparse_initializer}


def in_order(graph: Any, known: Collection[str]) -> list[Any]:
    """Return the nodes that the outputs need, each after those that compute its inputs; files may list them in any order.

    known: names of constants and inputs. Raises NoTwin for a value that no node computes.
    """
    given, order, waiting = set(known), [], list(graph.node)
    while waiting:
        left = []
        for node in waiting:
            if given.issuperset(filter(None, node.input)):
                given.update(node.output)
                order.append(node)
            else:
                left.append(node)
        if len(left) == len(waiting):
            break
        waiting = left
    needed, kept = {one.name for one in graph.output}, []
    for node in reversed([*order, *waiting]):
        if needed.intersection(node.output):
            needed.update(filter(None, node.input))
            kept.append(node)
    missing = sorted(needed - given)
    if missing:
        raise NoTwin(f"the graph takes {', '.join(missing)}, which nothing in it gives")
    return kept[::-1]


def prepared(node: Any, opset: int, types: dict[str, int]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the function of a node, and its attributes as keyword arguments, without unsupported ones at their defaults.

    types: the ONNX type numbers of constants. The type of a zero point is the type that its node rounds to. Raises NoTwin for
    an unsupported attribute.
    """
    import onnx

    run = function_of(node)
    assert run is not None
    attributes = {one.name: _value(onnx.helper.get_attribute_value(one)) for one in node.attribute}
    if node.op_type == "Constant":  # value, value_float, value_ints ...
        return run, {"value": next(iter(attributes.values()))}
    expected = inspect.signature(run).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in expected.values())
    odd = sorted(attributes.keys() - expected.keys())
    if odd and not takes_all:
        defaults = _defaults(node, opset)
        attributes = {
            name: value for name, value in attributes.items() if name not in odd or value != defaults.get(name)
        }
        odd = sorted(attributes.keys() - expected.keys())
        if odd:
            raise NoTwin(f"{title_of(node)} with {', '.join(odd)} has no gradient here")
    if "output_dtype" in expected and len(node.input) > 2 and node.input[2] in types:
        attributes["output_dtype"] = types[node.input[2]]
    if "opset" in expected:
        attributes["opset"] = opset
    if "outputs" in expected:
        attributes["outputs"] = len(node.output)
    return run, attributes


def types_of(graph: Any) -> dict[str, int]:
    """Return the ONNX type number of each constant, by name."""
    values = {node.output[0]: one.t for node in graph.node if node.op_type == "Constant" for one in node.attribute}
    return {name: one.data_type for name, one in values.items()} | {
        one.name: one.data_type for one in graph.initializer
    }


def _defaults(node: Any, opset: int) -> dict[str, Any]:
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "" if node.domain in _DOMAINS else node.domain)
    except onnx.defs.SchemaError:  # not a standard operator
        return {}
    given = {name: one.default_value for name, one in schema.attributes.items() if one.default_value.name}
    return {name: _value(onnx.helper.get_attribute_value(one)) for name, one in given.items()}


def _value(value: Any) -> Any:
    import onnx

    if isinstance(value, bytes):
        return value.decode()
    return tensor(value) if isinstance(value, onnx.TensorProto | onnx.SparseTensorProto) else value


def tensor(proto: Any) -> Tensor:
    """Return a writable copy of the values: half precision and lower as float32, integers of 4 bits and fewer as int8."""
    import onnx

    if isinstance(proto, onnx.SparseTensorProto):
        return _dense(proto)
    array = onnx.numpy_helper.to_array(proto)
    name = array.dtype.name
    if name in ("int4", "uint4", "int2", "uint2"):
        array = array.astype("int8")
    elif name in ("float16", "bfloat16") or name.startswith("float8"):
        array = array.astype("float32")
    return torch.from_numpy(array.copy())


def _dense(proto: Any) -> Tensor:
    values, places = tensor(proto.values), tensor(proto.indices)
    whole = torch.zeros(tuple(proto.dims), dtype=values.dtype)
    if places.ndim == 1:
        whole.flatten()[places] = values  # a view
    else:
        whole[tuple(places.unbind(1))] = values
    return whole
