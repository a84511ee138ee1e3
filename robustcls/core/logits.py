"""Find the logits in a network's output: a tensor, mapping, tuple, object with `.logits`, or one logit for two classes."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen

KEYS = ("logits", "logit", "out", "output", "outputs", "pred", "preds", "prediction", "predictions", "scores")
PROBES = (1, -1, 100, -100, 1e4, -1e4)  # factors for the contrast of an image
MIRRORED = ("classes", "input_size", "arch", "differentiable")  # attributes by which a module describes itself


def logits_of(output: Any, part: int | None = None) -> Any:
    """Return the part of a network's output that contains the logits. A tensor or a torch.fx proxy is returned unchanged.

    For a mapping it is the value of `logits` or a similar key; for an object, its `.logits`; for a tuple or list, the first
    part, or the part number `part`. Raises InputError for a mapping without such a key.
    """
    inside, description = _opened(output, part)
    return logits_of(inside) if description else output


def mean_probabilities(logs: list[Tensor]) -> Tensor:
    """Return the logarithm of the mean of several softmax outputs, given their logarithms N,K. It can be used as logits."""
    return torch.stack(logs).logsumexp(0) - math.log(len(logs))


def choose_part(output: Any, columns: int) -> int | None:
    """Return the number of the part of a tuple or list that has as many columns as there are classes.

    None if it is the first part, or if no part or more than one part fits.
    """
    if not _is_several(output):
        return None
    fitting = [number for number, width in enumerate(map(_columns, output)) if width == columns]
    return fitting[0] if len(fitting) == 1 and fitting[0] != _first(output) else None


def part_of(output: Any, part: int | None = None) -> str:
    """Return in words which part `logits_of` takes; "" for a tensor."""
    return _opened(output, part)[1]


def _opened(output: Any, part: int | None) -> tuple[Any, str]:
    """Return the part of an output that contains the logits, and its description; "" for an output without parts."""
    if isinstance(output, Tensor):
        return output, ""
    if isinstance(output, Mapping):
        key = _key(output)
        return output[key], f"{key!r} of a mapping with {_listed(list(map(str, output)))}"
    if _has_logits(output):
        return output.logits, f".logits of {type(output).__name__}"
    if _is_several(output):
        which = "the first" if part in (None, 0) else f"part {part + 1}"
        shapes = ", ".join(f"N,{width}" if (width := _columns(one)) else type(one).__name__ for one in output[:4])
        shapes = f" ({shapes}{', ...' if len(output) > 4 else ''})" if len(output) > 1 else ""
        description = f"{which} of {len(output)} parts of a {type(output).__name__}{shapes}"
        return output[_first(output) if part is None else part], description
    return output, ""


class Wrapper(nn.Module):
    """A model around another model that returns its logits or a mean of them. It copies the attributes in MIRRORED.

    Attacks run on the wrapper unchanged: it is never folded, compiled or run in low precision.
    """

    repeats = 1  # forward passes of the inner model per forward pass of the wrapper

    def __init__(self, model: nn.Module, title: str) -> None:
        """title: the spec, with {} in place of the model's name."""
        super().__init__()
        self.model = model
        self.title = title.replace("{}", str(getattr(model, "title", type(model).__name__)))
        mirror(model, self)


def chains_in(model: nn.Module) -> list[list[Wrapper]]:
    """Return the nested wrappers of a model, from the outermost inwards: one list per innermost wrapper."""
    inside = [chain for child in model.children() for chain in chains_in(child)]
    return [[model, *chain] for chain in inside or [[]]] if isinstance(model, Wrapper) else inside


def passes_of(chains: Iterable[Iterable[Wrapper]]) -> int:
    """Return the forward passes of the innermost model per pass of the whole; the maximum, for several inner models."""
    return max((math.prod(one.repeats for one in chain) for chain in chains), default=1)


def mirror(model: nn.Module, wrapper: nn.Module) -> None:
    """Copy the attributes in MIRRORED and the training mode of a model to a wrapper around it."""
    for name in MIRRORED:
        if not isinstance(value := getattr(model, name, None), (nn.Module, Tensor, type(None))):
            setattr(wrapper, name, value)
    wrapper.training = model.training


class Logits(nn.Module):
    """Wrapper that returns logits N,K for a module with another output format. The module itself is not changed."""

    def __init__(
        self, model: nn.Module, *, part: int | None = None, single: bool = False, probability: bool = False
    ) -> None:
        """part: number of the part of its output tuple. single: its output is one logit z, of class 1 of two. The logits are
        then -z/2 and z/2, whose softmax equals the sigmoid of z. probability: its output is the sigmoid instead of z.
        """
        super().__init__()
        self.model, self.part, self.single, self.probability = model, part, single, probability
        mirror(model, self)

    def forward(self, x: Tensor) -> Tensor:
        logits = logits_of(self.model(x) if self.part is None else _raw(self.model, x), self.part)
        if self.single:
            if self.probability:
                logits = logits.float().logit(torch.finfo(torch.float32).eps)
            half = logits.reshape(-1) / 2
            return torch.stack([-half, half], 1)
        return logits.reshape(x.shape[0], -1)


def as_classifier(
    model: nn.Module, images: Tensor, classes: int | None = None, labels: Tensor | None = None
) -> tuple[nn.Module, str]:
    """Return the model if it returns logits N,K, else a wrapper that does; and a note on what was assumed, "" for nothing.

    images: N,C,H,W, in the device and precision of the model. Only the first is used, unless more are needed to decide.
    classes: the number of classes, if known. labels: used to estimate it otherwise. A model without recognisable logits is
    returned unchanged; `check_logits` then explains the problem. Raises InputError, also for a tuple that is ambiguous.
    """
    image = images[:1]
    with torch.no_grad(), frozen(model):
        output = model(image.clone())
        taken = isinstance(output, Tensor) and hasattr(model, "raw_output")  # a Classifier already took a part
        raw = _raw(model, image.clone()) if taken else output
    number = choose_part(raw, classes or 0)
    part, logits = part_of(raw, number), logits_of(raw, number)
    widths = set(map(_columns, raw)) - {None} if _is_several(raw) else set()
    if classes and len(widths) > 1 and classes not in widths:
        raise InputError(
            f"the model gives several outputs, {part_of(raw)} would be taken, and none has a column for each of "
            f"{classes} classes: return the logits alone, or name every output with a file of classes"
        )
    if not classes and labels is not None and choose_part(raw, int(labels.max()) + 1) is not None:
        raise InputError(
            f"the model gives several outputs, {part_of(raw)} would be taken, and the labels are 0 to "
            f"{int(labels.max())}: return the logits alone, or name the classes in the model's .classes"
        )
    if not isinstance(logits, Tensor):
        return model, ""
    notes = [f"logits taken from {part}"] if part else []
    shape, n = tuple(logits.shape), len(image)
    trailing = len(shape) > 2 and set(shape[2:]) == {1}
    if shape == (n,) or (len(shape) > 1 and shape[0] == logits.numel() == n):
        probability = _gives_probabilities(Logits(model, part=number), images)
        meaning = "one logit speaks for class 1 of two, above 0 means class 1"
        if probability:
            meaning = "one probability p is that of class 1 of two, above 0.5 means class 1: its logit z is taken back"
        notes.append(f"its {meaning}: logits -z/2 and z/2")
        return Logits(model, part=number, single=True, probability=probability), "; ".join(notes)
    if trailing and shape[0] == n:
        notes.append(f"output N,{','.join(map(str, shape[1:]))} is taken as N,{shape[1]}")
    elif logits.ndim != 2:
        return model, ""
    nameless = bool(part) and not getattr(model, "classes", ())  # else the choice would be repeated
    wrapped = not isinstance(output, Tensor) or trailing or number is not None or nameless
    return (Logits(model, part=number) if wrapped else model), "; ".join(notes)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the user's module inside a `Logits` wrapper."""
    return model.model if isinstance(model, Logits) else model


def _gives_probabilities(model: nn.Module, images: Tensor) -> bool:
    """Whether a model's single output stays in [0, 1] for images and for pixels far outside [0, 1], where a logit would not."""
    outputs: list[Tensor] = []
    with torch.no_grad(), frozen(model):
        for image in images.split(1):
            for factor in PROBES:
                try:
                    outputs.append(model((image - 0.5) * factor + 0.5).flatten())
                except Exception:  # a model may raise any error for such pixels
                    if factor == 1:
                        raise
    values = torch.cat(outputs)
    values = values[~values.isnan()]
    return bool(((values >= 0) & (values <= 1)).all())


def _raw(model: nn.Module, x: Tensor) -> Any:
    """Return the output of the network; for a Classifier, the whole output before it selects a part."""
    return getattr(model, "raw_output", model)(x)


def _is_several(output: Any) -> bool:
    return isinstance(output, (tuple, list)) and len(output) > 0 and not _has_logits(output)


def _first(output: Any) -> int:
    return next((number for number, part in enumerate(output) if part is not None), 0)


def _columns(output: Any) -> int | None:
    """Return K for a tensor N,K; None for anything else."""
    return output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else None


def _has_logits(output: Any) -> bool:
    """Look only at the type and the instance dictionary, since a torch.fx proxy claims to have every attribute."""
    return "logits" in getattr(output, "__dict__", {}) or hasattr(type(output), "logits")


def _key(output: Mapping) -> Any:
    known = next((key for key in KEYS if key in output), None)
    if known is not None:
        return known
    tensors = [key for key, value in output.items() if isinstance(value, Tensor) and value.ndim == 2]
    if len(tensors) != 1:
        raise InputError(
            f"the model gives a mapping with {_listed(list(map(str, output)))}: name the logits 'logits' in it, or return them"
        )
    return tensors[0]


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (" ..." if len(names) > 4 else "")
