"""The wrapper through which to attack a defence, as a command or call to paste."""

import shlex
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustcls.core.gradients import logits_and_gradient
from robustcls.core.logits import unwrapped
from robustcls.core.losses import margin
from robustcls.evaluation.engine import Engine
from robustcls.evaluation.subject import Subject
from robustcls.models.wrappers.averaged import Averaged


def through_averaged(engine: Engine) -> str:
    """Return how to attack the expectation of a random model."""
    return _how(engine.subject, "averaged", "draws=20", 'suite="rand"', "--suite rand")


def through_layer(engine: Engine, rows: Tensor) -> str:
    """Return how to attack past the layer at which the gradient ends, or "" if it passes all layers. rows: of samples."""
    x, y = engine.x[rows].to(engine.device), engine.y[rows].to(engine.device)
    layer = gradient_ends_at(_own(engine.subject), x, y)
    if not layer:
        return ""
    option = f"layer={layer}" if engine.subject.spec else f'layer="{layer}"'
    return f"the gradient ends at {layer}: " + _how(engine.subject, "straight_through", option, "", "")


def past_function(engine: Engine) -> str:
    """Return the same for a gradient that ends at no layer, and so must end at a function."""
    function = "package.module:function"
    option = f"layer={function}" if engine.subject.spec else f'layer="{function}"'
    return "name the function at which the gradient ends: " + _how(engine.subject, "straight_through", option, "", "")


def gradient_ends_at(model: nn.Module, x: Tensor, y: Tensor) -> str:
    """Return the innermost module whose output gets a gradient and whose input gets none, or whose output has none; or ""."""
    ran: list[tuple[str, Tensor, Tensor]] = []
    arrived: dict[int, bool] = {}

    def watch(tensor: Tensor) -> None:
        if tensor.requires_grad:
            tensor.register_hook(lambda grad: arrived.update({id(tensor): bool((grad != 0).any())}))

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple, output: object) -> None:
            if (
                arguments
                and isinstance(arguments[0], Tensor)
                and isinstance(output, Tensor)
                and torch.is_grad_enabled()
            ):
                ran.append((name, arguments[0], output))
                watch(arguments[0])
                watch(output)

        return hook

    hooks = [one.register_forward_hook(record(name)) for name, one in model.named_modules() if name]
    try:
        logits_and_gradient(model, x, margin, y)
    except Exception:  # the user's code ran before without hooks; an error with them only means that no layer is named
        return ""
    finally:
        for hook in hooks:
            hook.remove()
    for name, taken, given in ran:  # inner modules finish before outer ones, so the first match is the innermost
        cut = taken.requires_grad and not given.requires_grad
        if cut or (arrived.get(id(given)) and taken.requires_grad and not arrived.get(id(taken))):
            return name
    return ""


def _own(subject: Subject) -> nn.Module:
    """The model that the spec names."""
    model = unwrapped(subject.model)
    return model.model if isinstance(model, Averaged) and "averaged(" not in subject.spec else model


def _how(subject: Subject, wrapper: str, option: str, more: str, flags: str) -> str:
    if not subject.spec:
        arguments = [f"robustcls.{wrapper}(model, {option})", "images", "labels", f'"{subject.threat}"']
        return f"robustcls.evaluate({', '.join([*arguments, *([more] if more else [])])})"
    model = shlex.quote(f"{wrapper}({subject.spec}, {option})")
    return " ".join(filter(None, (f"robustcls attack --model {model}", subject.flags, flags)))
