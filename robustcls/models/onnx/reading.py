"""Reads ONNX files: nodes in an order that can be run, constants as tensors, attributes as keywords."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError, one_line
from robustcls.models.onnx.operators import OPERATORS

_DOMAINS = ("", "ai.onnx")


class NoTwin(InputError):
    """Why a file has no twin, such as an operator that `operators/` lacks."""


def read(path: str) -> Any:
    """The model of a file, functions of its own inlined. Raises NoTwin without onnx, InputError for another kind of file."""
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


def opset_of(model: Any) -> int:
    return next((one.version for one in model.opset_import if one.domain in _DOMAINS), 1)


def title_of(node: Any) -> str:
    return node.op_type if node.domain in _DOMAINS else f"{node.domain}.{node.op_type}"


def function_of(node: Any) -> Callable[..., Any] | None:
    return OPERATORS.get(node.domain, {}).get(node.op_type)


def constants_of(graph: Any) -> dict[str, Tensor]:
    """The initializers by name, but for texts, which no image needs."""
    import onnx

    dense = {one.name: tensor(one) for one in graph.initializer if one.data_type != onnx.TensorProto.STRING}
    return dense | {one.values.name: tensor(one) for one in graph.sparse_initializer}


def in_order(graph: Any, known: Collection[str]) -> list[Any]:
    """The nodes that the outputs need, each behind those that give its inputs: files may list them in any order.

    known: names of constants and inputs. Raises NoTwin for a value that nothing gives.
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
    """The function of a node and its attributes as keywords, without those at the standard's default.

    types: the standard's numbers for the types of constants. A zero point's is the type that its node rounds to.
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
    """The standard's number for the type of each constant, by name."""
    values = {node.output[0]: one.t for node in graph.node if node.op_type == "Constant" for one in node.attribute}
    return {name: one.data_type for name, one in values.items()} | {
        one.name: one.data_type for one in graph.initializer
    }


def _defaults(node: Any, opset: int) -> dict[str, Any]:
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "" if node.domain in _DOMAINS else node.domain)
    except onnx.defs.SchemaError:  # of an operator that is not the standard's
        return {}
    given = {name: one.default_value for name, one in schema.attributes.items() if one.default_value.name}
    return {name: _value(onnx.helper.get_attribute_value(one)) for name, one in given.items()}


def _value(value: Any) -> Any:
    import onnx

    if isinstance(value, bytes):
        return value.decode()
    return tensor(value) if isinstance(value, onnx.TensorProto | onnx.SparseTensorProto) else value


def tensor(proto: Any) -> Tensor:
    """A copy of its values, for what a file's bytes hold cannot be written on: half precision and less in float32, 4 bits
    in int8."""
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
