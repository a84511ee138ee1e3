"""Make a copy of the model for captum's hooks, in which every use of an activation is a separate module, not in place.

Captum's DeepLIFT and guided backpropagation attach rules to modules. They do not see an activation that is called as a
function, they confuse the two uses of a module that is used twice, and an activation in place overwrites the values that its
rule needs.
"""

import copy
import operator
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from robustcls.core.errors import InputError
from robustcls.models.onnx.net import net_of

ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU,
    nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Softsign, nn.Tanh, nn.PReLU, nn.RReLU, nn.Threshold,
)  # fmt: skip
RULED = (*ELEMENTWISE, nn.MaxPool2d, nn.Softmax)
FUNCTIONS: dict[Any, type[nn.Module]] = {
    F.relu: nn.ReLU, torch.relu: nn.ReLU, torch.relu_: nn.ReLU, "relu": nn.ReLU, "relu_": nn.ReLU,
    F.silu: nn.SiLU, F.gelu: nn.GELU, F.relu6: nn.ReLU6, F.hardswish: nn.Hardswish, F.hardsigmoid: nn.Hardsigmoid,
    F.leaky_relu: nn.LeakyReLU, F.elu: nn.ELU, F.softplus: nn.Softplus, F.mish: nn.Mish, F.tanh: nn.Tanh,
    torch.tanh: nn.Tanh, "tanh": nn.Tanh, F.sigmoid: nn.Sigmoid, torch.sigmoid: nn.Sigmoid, "sigmoid": nn.Sigmoid,
    F.selu: nn.SELU, torch.selu: nn.SELU, F.celu: nn.CELU, torch.celu: nn.CELU, "tanh_": nn.Tanh, "sigmoid_": nn.Sigmoid,
    F.logsigmoid: nn.LogSigmoid, F.hardtanh: nn.Hardtanh, F.softsign: nn.Softsign, F.softmax: nn.Softmax,
    F.max_pool2d: nn.MaxPool2d, torch.max_pool2d: nn.MaxPool2d,
}  # fmt: skip
OUT_OF_PLACE = {operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul}
# The arguments of the pooling function, in order.
POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
NO_OPTIONS = ("inplace", "input", "_stacklevel", "dtype")  # arguments of functions that their modules do not take
AGREEMENT = 1e-4  # largest difference of the logits, relative to the largest logit


@contextmanager
def input_kept(model: nn.Module) -> Iterator[None]:
    """Give the model a copy of its input, so that in-place operations do not change the original."""
    if isinstance(model, torch.jit.ScriptModule):  # does not accept hooks
        yield
        return
    handle = model.register_forward_pre_hook(_copy_input)
    try:
        yield
    finally:
        handle.remove()


def _copy_input(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return inputs[0].clone(), *inputs[1:]


def prepared(model: nn.Module, x: Tensor, method: str, *, rescale: bool = False) -> nn.Module:
    """Return a prepared deep copy of an eval-mode model with the same logits on x; the model itself is not changed.

    In the copy, activations and poolings that are called as functions become modules; a module that is used several times
    becomes one module per use; each has its own input, and none works in place; overlapping windows of poolings are laid side
    by side. method: the name for error messages. rescale: for DeepLIFT, give every elementwise activation the rescale rule.
    Raises InputError if torch.fx cannot trace the model and the model uses an activation twice or as a function (the message
    names it), or if the logits of the copy differ.
    """
    if (file := net_of(model)) is not None:
        raise InputError(
            f"{method} attaches rules to the layers of a network, but {file.path} is a graph of operators: take another "
            "method, such as integrated_gradients"
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{method}: {name or 'the model'} is a ScriptModule, which takes no rules: give the unscripted model"
            )
    try:
        copied = copy.deepcopy(model)
    except Exception as error:  # a module of the user may raise anything
        raise InputError(
            f"{method} needs a copy of the model, but {type(model).__name__} cannot be copied: {error}"
        ) from None
    for key in [key for key, hook in copied._forward_pre_hooks.items() if hook is _copy_input]:
        del copied._forward_pre_hooks[key]  # it would fail: captum's hook on the model passes more than a tensor
    for name, module in list(copied.named_modules()):
        if getattr(module, "inplace", False):
            module.inplace = False
        if isinstance(module, RULED) and name:
            copied.set_submodule(name, Alone(module))
    try:
        copied = _separated(copied)
    except Exception as error:  # fx passes on any error that the model's code raises for a proxy
        _refuse_reuse(copied, x, method, error)
    with torch.no_grad():
        expected, logits = model(x[:1].clone()), copied(x[:1].clone())
    gap = (logits - expected).abs().max().item()
    if not gap <= AGREEMENT * max(1.0, expected.abs().max().item()):
        raise InputError(f"{method}: the prepared copy of {type(model).__name__} gives logits that differ by {gap:.2g}")
    for alone in [module for module in copied.modules() if rescale and isinstance(module, Alone)]:
        if isinstance(alone.module, ELEMENTWISE):
            # Captum looks up the rule by the exact type of the module, and knows only six of these types. The rule of a ReLU
            # holds for any elementwise function, because it uses only the input and the output.
            relu = nn.ReLU()
            relu.forward = alone.module.forward  # type: ignore[method-assign]
            alone.module = relu
    return copied


class SideBySide(nn.Module):
    """Max pooling that first lays overlapping windows side by side, so that the contributions of each pixel add up."""

    def __init__(self, pooling: nn.MaxPool2d) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation = (
            (value, value) if isinstance(value, int) else tuple(value)
            for value in (pooling.kernel_size, pooling.stride, pooling.padding, pooling.dilation)
        )
        self.ceil_mode = pooling.ceil_mode
        self.pool = nn.MaxPool2d(self.kernel)

    def forward(self, x: Tensor) -> Tensor:
        out = F.max_pool2d(  # on the meta device, to compute only the size
            torch.empty(x.shape, device="meta"),
            self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode,
        ).shape[2:]  # fmt: skip
        borders = []
        for axis in (1, 0):
            reach = (out[axis] - 1) * self.stride[axis] + self.dilation[axis] * (self.kernel[axis] - 1) + 1
            before = self.padding[axis]
            borders += [before, reach - before - x.shape[2 + axis]]
        padded = F.pad(x, borders, value=torch.finfo(x.dtype).min / 4)
        windows = F.unfold(padded, self.kernel, self.dilation, 0, self.stride)
        windows = windows.view(len(x), x.shape[1], *self.kernel, *out).permute(0, 1, 4, 2, 5, 3)
        return self.pool(windows.reshape(len(x), x.shape[1], out[0] * self.kernel[0], out[1] * self.kernel[1]))


class Alone(nn.Module):
    """A module with a rule and its own copy of the input: if two rules shared a tensor, one of them would be lost."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        overlaps = isinstance(module, nn.MaxPool2d) and not (
            module.stride == module.kernel_size and module.padding in (0, (0, 0)) and module.dilation in (1, (1, 1))
        )
        self.module = SideBySide(module) if overlaps else module  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x.clone())


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(module, Alone) or super().is_leaf_module(module, module_qualified_name)


def _separated(model: nn.Module) -> nn.Module:
    """Return the model as a graph in which each activation and pooling is a module that runs once."""
    graph = _Tracer().trace(model)
    traced = fx.GraphModule(model, graph)
    images = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(images):  # the model may change its input in place
        copied = graph.call_function(torch.clone, (images,))
    images.replace_all_uses_with(copied, lambda user: user is not copied)
    uses: Counter[str] = Counter()
    for number, node in enumerate(list(graph.nodes)):
        if node.op == "call_module":
            uses[node.target] += 1
            module = traced.get_submodule(node.target)
            if isinstance(module, Alone) and uses[node.target] > 1:
                node.target = f"{node.target}_use{uses[node.target]}"
                traced.add_submodule(node.target, copy.deepcopy(module))
        elif node.op in ("call_function", "call_method") and node.target in FUNCTIONS:
            name = f"function{number}"
            traced.add_submodule(name, Alone(_as_module(node)))
            node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}
        elif node.op == "call_function":
            node.target = OUT_OF_PLACE.get(node.target, node.target)
    graph.lint()
    traced.recompile()
    return traced


def _refuse_reuse(model: nn.Module, x: Tensor, method: str, error: Exception) -> None:
    """Raise InputError if an activation of a model that cannot be traced runs twice or is called as a function."""
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, Alone)}
    runs: Counter[str] = Counter()
    seen = _Functions()

    def enter(module: nn.Module, _inputs: object) -> None:
        runs[names[module]] += 1
        seen.inside += 1

    def leave(*_: object) -> None:
        seen.inside -= 1

    handles = [h for one in names for h in (one.register_forward_pre_hook(enter), one.register_forward_hook(leave))]
    try:
        with torch.no_grad(), seen:
            model(x[:1].clone())
    finally:
        for handle in handles:
            handle.remove()
    why = f"torch.fx cannot trace the model ({type(error).__name__}): give each use a module of its own"
    for name, count in runs.items():
        if count > 1:
            raise InputError(f"{method}: module {name!r} runs {count} times in a pass and {why}") from None
    if seen.called:
        raise InputError(f"{method}: {seen.called} is called as a function and {why}") from None


class _Functions(TorchFunctionMode):
    """Record the first activation that is called as a function outside the modules with rules."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.called = 0, ""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if not self.inside and (function in FUNCTIONS or (name in FUNCTIONS and "method" in str(type(function)))):
            self.called = self.called or name
        return function(*args, **(kwargs or {}))


def _as_module(node: fx.Node) -> nn.Module:
    """The module that replaces a function call, with the same options; the first argument is the tensor."""
    kind = FUNCTIONS[node.target]
    names = POOLING if kind is nn.MaxPool2d else signature(kind).parameters
    options = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    return kind(**{name: value for name, value in options.items() if name not in NO_OPTIONS})
