"""A model in which the gradient of a layer is replaced (BPDA)."""

import hashlib
import marshal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.logits import Wrapper

Layer = str | nn.Module | Callable[..., Tensor]
Substitute = str | Callable[[Tensor], Tensor]


def straight_through(model: nn.Module, *, layer: str = "", substitute: str | None = None) -> nn.Module:
    """A model with a layer whose gradient is that of the identity or a substitute (BPDA; Athalye et al., arXiv:1802.00420).

    The forward pass is the model's own, bit for bit: the layer runs, but the backward pass bypasses it.

    layer: the name of a submodule, as in `named_modules`, or `package.module:function`, a function that the model calls by that
    name. In Python also the submodule or the function itself. substitute: `package.module:function`, a function of the layer's
    first argument whose gradient is used instead; needed where the layer changes the shape. In Python also a function or a
    module.

    Example:
        >>> robustcls.attack(robustcls.straight_through(model, layer="quantise"), images, labels, "linf:8/255", "pgd(steps=20)")
    """
    return StraightThrough(model, layer, substitute)


class _Past(torch.autograd.Function):
    """Returns `output` in the forward pass, and passes the gradient to `shadow`, a tensor of the same shape."""

    @staticmethod
    def forward(ctx: Any, shadow: Tensor, output: Tensor) -> Tensor:
        return output.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0], None


class StraightThrough(Wrapper):
    """The model, with this layer replaced in the backward pass."""

    def __init__(self, model: nn.Module, layer: Layer, substitute: Substitute | None = None) -> None:
        instead = "" if substitute is None else f", substitute={_substitute_name(substitute)}"
        super().__init__(model, "straight_through({}, layer=" + f"{_name_of(model, layer)}{instead})")
        self.layer, self.ran = _name_of(model, layer), False
        self.function: Callable[..., Tensor] | None = None
        if ":" in self.layer:
            self.function = layer if callable(layer) else _import(self.layer)
        elif not self.layer or self.layer not in dict(model.named_modules()):
            raise InputError(_no_layer(model, self.layer))
        if isinstance(substitute, str):
            substitute = _import(substitute)
        self.substitute = substitute
        self.places: list[tuple[str, str]] | None = None  # (module, name) under which the function was imported

    def forward(self, x: Tensor) -> Any:
        self.ran = False
        with self._past_function() if self.function else self._past_module():
            output = self.model(x)
        if not self.ran:
            raise InputError(f"{self.layer} did not run when the model did: name a layer that it calls")
        return output

    @contextmanager
    def _past_module(self) -> Iterator[None]:
        """While the model runs, let the layer compute on a detached copy of its input, and connect its output to the input."""
        module, inputs = self.model.get_submodule(self.layer), list[Tensor]()

        def before(module: nn.Module, arguments: tuple) -> tuple:
            inputs.append(_first(arguments, self.layer))
            return (inputs[-1].detach().clone(), *arguments[1:])

        def after(module: nn.Module, arguments: tuple, output: Any) -> Tensor:
            return self._past(inputs.pop(), output)

        hooks = [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _past_function(self) -> Iterator[None]:
        """While the model runs, replace the function, wherever it was imported, by one that lets gradients through."""
        function = self.function
        assert function is not None

        @wraps(function)
        def past(*arguments: Any, **keywords: Any) -> Tensor:
            x = _first(arguments, self.layer)
            return self._past(x, function(x.detach().clone(), *arguments[1:], **keywords))

        if self.places is None:
            self.places = [
                (module, name)
                for module, content in list(sys.modules.items())
                for name, value in list(getattr(content, "__dict__", {}).items())
                if value is function
            ]
        try:
            for module, name in self.places:
                setattr(sys.modules[module], name, past)
            yield
        finally:
            for module, name in self.places:
                setattr(sys.modules[module], name, function)

    def _past(self, x: Tensor, output: Any) -> Tensor:
        self.ran = True
        shadow = x if self.substitute is None else self.substitute(x)
        shadow_shape, output_shape = (
            tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in (shadow, output)
        )
        if shadow_shape != output_shape:
            source = "its input" if self.substitute is None else "its substitute"
            raise InputError(
                f"{self.layer} gives {output_shape} and {source} is {shadow_shape}: give a `substitute`, a function of the "
                "input that gives the layer's shape"
            )
        return _Past.apply(shadow, output)


def _name_of(model: nn.Module, layer: Layer) -> str:
    """Return the name of a layer as in a spec. Raises InputError for an object without a name."""
    if isinstance(layer, str):
        return layer
    if isinstance(layer, nn.Module):
        for name, module in model.named_modules():
            if module is layer:
                return name
        raise InputError(f"{type(layer).__name__} is not a layer of the model: give one of its submodules, or its name")
    name = str(getattr(layer, "__name__", ""))
    if not callable(layer) or getattr(sys.modules.get(getattr(layer, "__module__", "")), name, None) is not layer:
        raise InputError(f"layer {layer!r:.40} is neither a submodule nor a function of a module: name one, as `layer`")
    return f"{layer.__module__}:{name}"


def _substitute_name(substitute: Substitute) -> str:
    """Return the name of a substitute: its spec, the class of a module, or a function's name and a digest of its code.

    The digest is needed because a notebook may redefine the function under the same name.
    """
    if isinstance(substitute, str):
        return substitute
    if (code := getattr(substitute, "__code__", None)) is None:
        return type(substitute).__qualname__
    digest = hashlib.sha256(marshal.dumps(code, 2)).hexdigest()  # marshal version 2 depends on the code alone
    return f"{substitute.__qualname__} {digest[:8]}"


def _import(spec: str) -> Callable[..., Tensor]:
    module, _, name = spec.partition(":")
    return plugins.import_dotted("function", module, name)


def _first(arguments: tuple, layer: str) -> Tensor:
    if not arguments or not isinstance(arguments[0], Tensor):
        raise InputError(f"{layer} is not given a tensor as its first argument: name another layer")
    return arguments[0]


def _no_layer(model: nn.Module, layer: str) -> str:
    from difflib import get_close_matches

    names = [name for name, _ in model.named_modules() if name]
    near = get_close_matches(layer, names, n=1, cutoff=0.4)
    there = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names[:8]) or 'none'}"
    if not layer:
        return f"straight_through needs a layer of the model, such as `layer={(near or names or ['quantise'])[0]}`: {there}"
    return f"the model has no layer {layer!r}: {there}"
