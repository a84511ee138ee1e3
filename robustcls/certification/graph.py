"""Takes down the operations of a model (torch.fx) without running it; a model of which that would be untrue is refused."""

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
READ = {  # by what the tracer says, what it means for who wrote the model
    "'len' is not supported": "its code asks for the len() of a tensor: write x.shape[0]",
    "cannot be iterated": "its code loops over a tensor",
    "control flow": "its code decides by the values of a tensor",
    "item assignment": "its code writes on a part of a tensor",
    "Proxy'": "its code takes a number out of a tensor",
}
# h += g and the like.
ASSIGNED = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
FLAGS = {"relu": 1, "relu6": 1, "hardsigmoid": 1, "leaky_relu": 2}  # the place of a function's argument `inplace`
# Of these what is given is a view of the value, or itself.
VIEWS = ("flatten", "view", "reshape", "permute", "transpose", "contiguous", "squeeze", "dropout")
SHAPES = ("size", "dim", "getattr")  # of a value, which nothing can overwrite; `read` lets no other attribute through
VIEWED = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)


def trace(model: nn.Module) -> fx.GraphModule:
    """The operations of a model in eval mode, for images of any number. Raises InputError for one that cannot be traced, and
    one that uses a value again after it has written on it."""
    _check_plain(model)
    try:
        with kept_flags(model):
            tracer = _Tracer()
            traced = fx.GraphModule(model, tracer.trace(model.eval()))
    except InputError:
        raise
    except Exception as error:  # whatever the model's own code does with what is no tensor
        said = one_line(error)
        why = next((why for word, why in READ.items() if word in said), f"{said:.120}")
        raise InputError(
            f"{type(model).__name__} cannot be read as a list of layers, for {why}; bounds are for plain networks of "
            f"{KNOWN}; {ELSE}"
        ) from None
    _check_writes(traced)
    return traced


def refusal(traced: fx.GraphModule, node: fx.Node, why: str) -> InputError:
    """Of an operation, by its name and kind."""
    if (module := module_of(traced, node)) is not None:
        return InputError(f"layer {node.target} ({type(module).__name__}) cannot be bounded: {why}; {ELSE}")
    return InputError(f"{node.name}, the function {kind_of(traced, node)}, cannot be bounded: {why}; {ELSE}")


def module_of(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that an operation calls; None for a function or a method."""
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def kind_of(traced: fx.GraphModule, node: fx.Node) -> str:
    """The class of the module, or the name of the function or method."""
    if (module := module_of(traced, node)) is not None:
        return type(module).__name__
    return str(getattr(node.target, "__name__", node.target))


class _Proxy(fx.Proxy):
    """Takes down h += g as a writing on h, where torch's own takes down a sum."""


def _assigned(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    return lambda self, other: self.tracer.create_proxy("call_function", function, (self, other), {})


for _name in ASSIGNED:
    setattr(_Proxy, f"__{_name}__", _assigned(getattr(operator, _name)))


class _Tracer(fx.Tracer):
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)


def _check_plain(model: nn.Module) -> None:
    """Raises InputError, with what it is, for a module that has its network inside, out of sight of the tracer."""
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
        else:
            continue
        raise InputError(f"bounds are of one plain network, and {f'{name} of ' if name else ''}the model is {what}")


def _check_writes(traced: fx.GraphModule) -> None:
    """Raises InputError where a value is used after a call that wrote on it, by its old name or through an old view of it.

    As a list of layers each value stays what it was. Also where a call writes on what is no value of the image's.
    """
    memory: dict[fx.Node, fx.Node] = {}  # of each value the one that its memory was made for
    old: dict[fx.Node, fx.Node] = {}  # values that something was written on, and by what
    images: set[fx.Node] = set()  # values that depend on the image
    for node in traced.graph.nodes:
        for one in node.all_input_nodes:
            if one in old and kind_of(traced, node) not in SHAPES:
                why = f"it writes on {one.name}, which {node.name} uses afterwards: let it not be in place"
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
            raise refusal(traced, node, "it writes on what is the model's own: let it not be in place")
        old |= {one: node for one, made in memory.items() if made is memory[node] and one is not node}


def _writes(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a call writes on its first argument; dropout does not, in eval mode."""
    if (module := module_of(traced, node)) is not None:
        return bool(getattr(module, "inplace", False)) and not isinstance(module, VIEWED)
    kind = kind_of(traced, node)
    place = FLAGS.get(kind, len(node.args))
    flag = node.args[place] if place < len(node.args) else node.kwargs.get("inplace", False)
    return kind in ASSIGNED or (kind.endswith("_") and not kind.endswith("__")) or (bool(flag) and kind != "dropout")


def _views(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what a call gives may lie in the memory of its first argument."""
    module = module_of(traced, node)
    return kind_of(traced, node) in VIEWS if module is None else isinstance(module, VIEWED)
