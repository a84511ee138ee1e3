"""Read a model as the list of its layers, in the order of computation; a layer that cannot be bounded is refused by name.

Known modules, functions and methods among the operations recorded by graph.py become layers of layers.py, with the model's own
weights. BatchNorm uses its statistics of eval mode, and dropout is the identity.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from robustcls.certification.activations import ACTIVATIONS, JUMP, cut, leaky, softplus
from robustcls.certification.graph import KNOWN, SHAPES, kind_of, module_of, refusal
from robustcls.certification.layers import Add, Conv, Layer, Linear, MaxPool, Mean, Scale, Shape
from robustcls.core.errors import InputError

BENDS = ("SiLU", "GELU", "Mish", "Hardswish", "silu", "gelu", "mish", "hardswish")  # these fall before they rise
WHY = {
    **dict.fromkeys(BENDS, "it is not monotone"),
    **dict.fromkeys(("Softplus", "softplus"), f"it falls at its threshold, by more than {JUMP:g}: give a larger one"),
    **dict.fromkeys(("AvgPool2d", "avg_pool2d"), "its divisor_override is not positive"),
    "squeeze": "for a single image it also removes the batch dimension: name other dimensions, such as squeeze((2, 3))",
}


@dataclass(frozen=True)
class Step:
    """A layer and its inputs, as the numbers of earlier steps; 0 is the image."""

    name: str
    layer: Layer
    inputs: tuple[int, ...]
    shape: torch.Size  # of its output, without the sample dimension


@dataclass(frozen=True)
class Network:
    """A network as a list of steps. Steps count from 1, so step k is steps[k - 1]; the last one gives the logits."""

    input_shape: torch.Size
    steps: list[Step]

    def __call__(self, x: Tensor) -> Tensor:
        values = [x]
        for step in self.steps:
            values.append(step.layer(*(values[k] for k in step.inputs)))
        return values[-1]

    def shape(self, number: int) -> torch.Size:
        return self.steps[number - 1].shape if number else self.input_shape


def read(traced: fx.GraphModule, x: Tensor) -> Network:
    """Return the layers of a model that `trace` recorded. x: an image 1,C,H,W. Raises InputError for an unknown layer."""
    steps: list[Step] = []
    values: dict[
        fx.Node, Any
    ] = {}  # for values that depend on the image the _Number of their step, otherwise the value
    examples = [x.detach()]
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            values[node] = _Number(0) if not values else (node.args[0] if node.args else None)
        elif node.op == "get_attr":
            values[node] = operator.attrgetter(node.target)(traced)
        elif node.op == "output":
            result = values.get(node.args[0]) if isinstance(node.args[0], fx.Node) else None
            if not isinstance(result, _Number):
                raise InputError(
                    "the model's output is not a tensor that depends on the image: bounds need its logits N,K"
                )
            return _ending_at(Network(x.shape[1:], steps), int(result))
        else:
            values[node] = _take(traced, node, values, steps, examples)
    raise AssertionError("a traced graph ends with an output")


class _Number(int):
    """The number of a step: a value that depends on the image."""


def _ending_at(network: Network, last: int) -> Network:
    """Return the network without the steps after `last`, which gives the logits."""
    return Network(network.input_shape, network.steps[:last])


def _take(
    traced: fx.GraphModule, node: fx.Node, values: dict[fx.Node, Any], steps: list[Step], examples: list[Tensor]
) -> Any:
    """Return the value of an operation: the number of its new step, or its result if it does not depend on the image."""
    args: Any = fx.node.map_arg(node.args, lambda one: values[one])
    kwargs: Any = fx.node.map_arg(node.kwargs, lambda one: values[one])
    inputs = [one for one in (*args, *kwargs.values()) if isinstance(one, _Number)]
    module = module_of(traced, node)
    constant = not any(isinstance(values[one], _Number) for one in node.all_input_nodes)
    if module is None and (constant or kind_of(traced, node) in SHAPES):
        values_of: Any = fx.node.map_aggregate(
            (args, kwargs), lambda one: examples[one] if isinstance(one, _Number) else one
        )
        result = _run(node, *values_of)
        if not constant and isinstance(result, Tensor):
            raise refusal(traced, node, f"it takes .{node.args[1]} of a value that depends on the image")
        return result
    given = [examples[one] for one in inputs]
    layer: Layer | None = None
    if module is not None and inputs:
        layer = _of_module(module, given[0].ndim)
    elif module is None and args:
        layer = _of_call(node, args, kwargs, examples)
    if layer is None:
        kind = kind_of(traced, node)
        raise refusal(traced, node, WHY.get(kind, f"bounds are for plain networks of {KNOWN}"))
    with torch.no_grad():
        out = layer(*given)
    if (isinstance(layer, Scale) and out.shape != given[0].shape) or (isinstance(layer, Add) and len(
        {one.shape for one in given}
    ) > 1):  # fmt: skip
        raise InputError(
            f"{node.name} cannot be bounded: it broadcasts {tuple(given[0].shape)[1:]} to {tuple(out.shape)[1:]}"
        )
    steps.append(Step(node.name, layer, tuple(map(int, inputs)), out.shape[1:]))
    examples.append(out)
    return _Number(len(steps))


def _run(node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


# Modules


def _of_module(module: nn.Module, dimensions: int) -> Layer | None:
    """Return a module as a layer, for an input with this number of dimensions; None for an unknown module."""
    if isinstance(module, nn.Linear):
        return Linear(module.weight, module.bias)
    if isinstance(module, nn.Conv2d):
        return _of_convolution(module)
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
        return _of_batch_norm(module, dimensions - 2)
    if isinstance(module, nn.MaxPool2d) and not module.return_indices:
        return _max_pool(module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
    if isinstance(module, nn.AvgPool2d):
        return _mean_pool(module.divisor_override, module.forward)
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return Mean(module.forward)
    if isinstance(module, nn.Flatten):
        return Shape(module.forward) if module.start_dim > 0 else None
    if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
        return Shape(lambda x: x)
    if isinstance(module, nn.LeakyReLU):
        return leaky(module.negative_slope)
    if isinstance(module, nn.Softplus):
        return softplus(module.beta, module.threshold)
    if isinstance(module, nn.Hardtanh):  # and ReLU6
        return cut(module.min_val, module.max_val)
    return ACTIVATIONS[type(module).__name__.lower()] if isinstance(
        module, nn.ReLU | nn.Sigmoid | nn.Tanh | nn.Hardsigmoid
    ) else None  # fmt: skip


def _of_convolution(module: nn.Conv2d) -> Layer | None:
    """Return a convolution as a layer; None unless it pads with zeros, and for padding `same` with a kernel of even size."""
    if module.padding_mode != "zeros":
        return None
    padding: Any = module.padding
    if isinstance(padding, str):
        whole = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(module.dilation, module.kernel_size, strict=True)
        ]
        if any(each % 2 for each in whole):
            return None
        padding = tuple(each // 2 for each in whole)
    return Conv(module.weight, module.bias, module.stride, padding, module.dilation, module.groups)


def _of_batch_norm(module: nn.BatchNorm2d | nn.BatchNorm1d, after: int) -> Layer | None:
    """Return BatchNorm as a layer; None if it uses batch statistics. after: number of dimensions after the channels."""
    if module.running_mean is None or module.running_var is None:
        return None
    factor = torch.rsqrt(module.running_var + module.eps)
    factor = factor if module.weight is None else factor * module.weight
    shift = -module.running_mean * factor
    shift = shift if module.bias is None else shift + module.bias
    return Scale(factor.view(-1, *[1] * after), shift.view(-1, *[1] * after))


# Functions and methods


def _of_call(node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any], examples: list[Tensor]) -> Layer | None:
    """Return a function or method applied to a value that depends on the image as a layer; None for an unknown one."""
    name = node.target if isinstance(node.target, str) else FUNCTIONS.get(node.target, "")
    if name in ARITHMETIC:
        return _arithmetic(ARITHMETIC[name], list(args), kwargs, examples[0])
    rest = args[1:]
    if not isinstance(args[0], _Number) or any(isinstance(one, _Number | Tensor) for one in (*rest, *kwargs.values())):
        return None
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if name == "leaky_relu":
        return leaky(_option(rest, kwargs, 0, "negative_slope", 0.01))
    if name == "softplus":
        return softplus(_option(rest, kwargs, 0, "beta", 1.0), _option(rest, kwargs, 1, "threshold", 20.0))
    if name == "hardtanh":
        return cut(_option(rest, kwargs, 0, "min_val", -1.0), _option(rest, kwargs, 1, "max_val", 1.0))
    if name == "dropout":
        return Shape(lambda x: x)
    if name == "avg_pool2d":
        return _mean_pool(_option(rest, kwargs, 5, "divisor_override", None), lambda x: _run(node, (x, *rest), kwargs))
    if name == "adaptive_avg_pool2d":
        return Mean(lambda x: _run(node, (x, *rest), kwargs))
    if name == "max_pool2d":
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        kernel, stride, padding, dilation, ceil = (
            _option(rest, kwargs, place, each, default)
            for place, (each, default) in enumerate(zip(names, (None, None, 0, 1, False), strict=True))
        )
        return None if kwargs.get("return_indices") else _max_pool(kernel, stride, padding, dilation, ceil)
    before = examples[args[0]]
    if name == "mean":
        dim = _option(rest, kwargs, 0, "dim", None)
        dims = [one % before.ndim for one in ((dim,) if isinstance(dim, int) else dim or (0,))]
        return None if 0 in dims else Mean(lambda x: _run(node, (x, *rest), kwargs))
    if name in ("flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze"):
        return _reshaped(node, rest, kwargs, before)
    return None


def _reshaped(node: fx.Node, rest: Sequence[Any], kwargs: dict[str, Any], before: Tensor) -> Layer | None:
    """Return the layer that changes shape or order of the entries; None unless every sample keeps its own entries."""
    two = torch.arange(2 * before.numel(), dtype=torch.float64, device=before.device).view(2, *before.shape[1:])
    fixed = tuple(rest)
    if str(node.target) in ("view", "reshape") or node.target is torch.reshape:
        sizes = fixed[0] if len(fixed) == 1 and isinstance(fixed[0], tuple | list | torch.Size) else fixed
        if tuple(sizes[:1]) not in (
            (len(before),),
            (-1,),
        ):  # the sample dimension must be kept; it is 1 for the example image
            return None
        after = _run(node, (before, *rest), kwargs).shape
        return Shape(lambda x: x.reshape(len(x), *after[1:])) if len(after) and after[0] == len(before) else None
    out, alone = (_run(node, (some, *fixed), kwargs) for some in (two, two[:1]))
    own = out.flatten(1) if out.ndim > 1 and len(out) == 2 and alone.shape == (1, *out.shape[1:]) else None
    if own is None or not bool((own[0] < two[1].min()).all() and (own[1] >= two[1].min()).all()):
        return None
    return Shape(lambda x: _run(node, (x, *fixed), kwargs))


def _arithmetic(name: str, args: list[Any], kwargs: dict[str, Any], like: Tensor) -> Layer | None:
    """Return a + b, a - b, a b or a / b as a layer, for two values that depend on the image or for one and a constant."""
    if len(args) != 2 or any(value != {"alpha": 1}.get(option) for option, value in kwargs.items()):
        return None
    first, second = args
    if isinstance(first, _Number) and isinstance(second, _Number):
        return Add(1 if name == "add" else -1) if name in ("add", "sub") else None
    value_first = isinstance(first, _Number)
    constant = second if value_first else first
    constant = (
        constant if isinstance(constant, Tensor) else torch.as_tensor(constant, dtype=like.dtype, device=like.device)
    )
    if constant.ndim > 3:
        if len(constant) != 1:
            return None
        constant = constant[0]
    one, zero = torch.ones_like(constant), torch.zeros_like(constant)
    if name == "add":
        return Scale(one, constant)
    if name == "sub":
        return Scale(one, -constant) if value_first else Scale(-one, constant)
    if name == "mul":
        return Scale(constant, zero)
    return Scale(1 / constant, zero) if value_first else None


def _option(rest: Sequence[Any], kwargs: dict[str, Any], place: int, name: str, default: Any) -> Any:
    return rest[place] if len(rest) > place else kwargs.get(name, default)


def _mean_pool(divisor: int | None, function: Callable[[Tensor], Tensor]) -> Layer | None:
    """Return a mean pooling as a layer; None if its divisor is not positive."""
    return Mean(function) if divisor is None or divisor > 0 else None


def _max_pool(kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any) -> Layer | None:
    """Return a max pooling as a layer; None with dilation or ceil_mode."""
    pair = lambda value: (value, value) if isinstance(value, int) else tuple(value)  # noqa: E731
    if pair(dilation) != (1, 1) or ceil_mode:
        return None
    return MaxPool(pair(kernel), pair(kernel if stride in (None, ()) else stride), pair(padding))


ARITHMETIC = {"add": "add", "sub": "sub", "mul": "mul", "div": "div", "add_": "add"}
FUNCTIONS: dict[Callable[..., Any], str] = {
    F.relu: "relu", torch.relu: "relu", F.relu6: "relu6", torch.sigmoid: "sigmoid", F.sigmoid: "sigmoid",
    torch.tanh: "tanh", F.tanh: "tanh", F.hardtanh: "hardtanh", F.hardsigmoid: "hardsigmoid",
    F.leaky_relu: "leaky_relu", F.softplus: "softplus",
    F.dropout: "dropout", F.avg_pool2d: "avg_pool2d", F.adaptive_avg_pool2d: "adaptive_avg_pool2d",
    F.max_pool2d: "max_pool2d", torch.max_pool2d: "max_pool2d", torch.mean: "mean", torch.flatten: "flatten",
    torch.reshape: "reshape", torch.permute: "permute", torch.transpose: "transpose", torch.squeeze: "squeeze",
    operator.add: "add", operator.iadd: "add", operator.sub: "sub", operator.isub: "sub", operator.mul: "mul",
    operator.imul: "mul", operator.truediv: "div", operator.itruediv: "div",
    torch.add: "add", torch.sub: "sub", torch.mul: "mul", torch.div: "div",
}  # fmt: skip
