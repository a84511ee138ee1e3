"""Record the operations of a model with torch.fx, without running it; refuse models whose record would be wrong."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from robustcls.core.errors import InputError, one_line
from robustcls.core.gradients import kept_flags
from robustcls.core.logits import Wrapper

KNOWN = (
    "convolutions, linear layers, BatchNorm, ReLU, LeakyReLU, softplus, sigmoid, tanh and their hard forms, mean and max "
    "poolings, sums, flatten"
)
ELSE = "`sigma` certifies any model that was trained with noise"
READ = {  # from a part of the tracer's message to an explanation for the author of the model
    "'len' is not supported": "its code asks for the len() of a tensor: write x.shape[0]",
    "cannot be iterated": "its code loops over a tensor",
    "control flow": "its code decides by the values of a tensor",
    "item assignment": "its code writes on a part of a tensor",
    "Proxy'": "its code takes a number out of a tensor",
}
# In-place operators such as h += g.
ASSIGNED = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
FLAGS = {
    "relu": 1,
    "relu6": 1,
    "hardsigmoid": 1,
    "leaky_relu": 2,
    "hardtanh": 3,
}  # the position of a function's argument `inplace`
# Operations whose result is, or may be, a view of their input.
VIEWS = ("flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "dropout")
SHAPES = (
    "size",
    "dim",
    "getattr",
)  # these read only the shape, which nothing can overwrite; `read` refuses other attributes
VIEWED = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)


def trace(model: nn.Module) -> fx.GraphModule:
    """Return the operations of a model in eval mode, valid for any number of images.

    Raises InputError if the model cannot be traced, or uses a value again after an in-place operation changed it.
    """
    check_plain(model)
    try:
        with kept_flags(model):
            tracer = _Tracer()
            traced = fx.GraphModule(model, tracer.trace(model.eval()))
    except InputError:
        raise
    except (
        Exception
    ) as error:  # the model's code may fail in any way, because the tracer passes proxies instead of tensors
        message = one_line(error)
        why = next((why for word, why in READ.items() if word in message), f"{message:.120}")
        raise InputError(
            f"{type(model).__name__} cannot be read as a list of layers, because {why}; bounds are for plain networks of "
            f"{KNOWN}; {ELSE}"
        ) from None
    _check_writes(traced)
    return traced


def refusal(traced: fx.GraphModule, node: fx.Node, why: str) -> InputError:
    """Return the error for an operation that cannot be bounded, with its name and kind."""
    if (module := module_of(traced, node)) is not None:
        return InputError(f"layer {node.target} ({type(module).__name__}) cannot be bounded: {why}; {ELSE}")
    return InputError(f"{node.name}, the function {kind_of(traced, node)}, cannot be bounded: {why}; {ELSE}")


def module_of(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """Return the module that an operation calls; None for a function or method."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def kind_of(traced: fx.GraphModule, node: fx.Node) -> str:
    """Return the class name of the module, or the name of the function or method."""
    if (module := module_of(traced, node)) is not None:
        return type(module).__name__
    return str(getattr(node.target, "__name__", node.target))


class _Proxy(fx.Proxy):
    """Records h += g as an in-place operation, where torch's own proxy records a sum."""


def _assigned(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ASSIGNED:
    setattr(_Proxy, f"__{_name}__", _assigned(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def check_plain(model: nn.Module) -> None:
    """Raise InputError for a module that wraps its network, or changes what its layers compute, unseen by the tracer."""
    for name, one in model.named_modules():
        kind = type(one).__name__
        if isinstance(one, torch.jit.ScriptModule):
            what = f"{kind}, compiled by torch.jit: give the module that it was made from"
        elif hasattr(one, "_orig_mod"):
            what = "compiled by torch.compile: give the module that it was made from"
        elif isinstance(one, nn.DataParallel | nn.parallel.DistributedDataParallel):
            what = f"{kind}, a wrapper for several devices: give the model inside, its .module"
        elif isinstance(one, Wrapper):
            what = f"{one.title}, a wrapper: give the model inside"
        elif one._forward_hooks or one._forward_pre_hooks or "forward" in vars(one):
            what = (
                f"{kind} with a hook or a `forward` of its own, which may change its result: remove it; the weights of "
                "torch.nn.utils.prune, weight_norm and spectral_norm are made permanent by its remove functions"
            )
        else:
            continue
        raise InputError(f"bounds need one plain network, and {f'{name} of ' if name else ''}the model is {what}")


def _check_writes(traced: fx.GraphModule) -> None:
    """Raise InputError if a value is used after an in-place operation on it, by its old name or through an old view of it.

    In a list of layers every value stays unchanged, so such a model would be read wrongly. Also raised if an in-place operation
    changes a value that does not depend on the image, such as a parameter.
    """
    memory: dict[fx.Node, fx.Node] = {}  # the value that first owned each value's memory
    old: dict[fx.Node, fx.Node] = {}  # values that were overwritten, and the operation that did so
    images: set[fx.Node] = set()  # values that depend on the image
    for node in traced.graph.nodes:
        for one in node.all_input_nodes:
            if one in old and kind_of(traced, node) not in SHAPES:
                why = f"it overwrites {one.name}, which {node.name} uses afterwards: make it not in-place"
                raise refusal(traced, old[one], why)
        if node.op == "placeholder" or not images.isdisjoint(node.all_input_nodes):
            images.add(node)
        target = next(iter(node.all_input_nodes), None)
        writes = target is not None and _writes(traced, node)
        shares = target is not None and (writes or _views(traced, node))
        memory[node] = memory[target] if shares and target is not None else node
        if not writes:
            continue
        if target not in images:
            raise refusal(traced, node, "it overwrites a value of the model itself: make it not in-place")
        old |= {one: node for one, made in memory.items() if made is memory[node] and one is not node}


def _writes(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether an operation overwrites its first argument; dropout does not, in eval mode."""
    if (module := module_of(traced, node)) is not None:
        return bool(getattr(module, "inplace", False)) and not isinstance(module, VIEWED)
    kind = kind_of(traced, node)
    place = FLAGS.get(kind, len(node.args))
    flag = node.args[place] if place < len(node.args) else node.kwargs.get("inplace", False)
    return kind in ASSIGNED or (kind.endswith("_") and not kind.endswith("__")) or (bool(flag) and kind != "dropout")


def _views(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the result of an operation may share memory with its first argument."""
    module = module_of(traced, node)
    return kind_of(traced, node) in VIEWS if module is None else isinstance(module, VIEWED)
