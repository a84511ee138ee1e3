"""Finds the logits in a network's output: a tensor, mapping, tuple, object with `.logits`, or one logit for two classes."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen

KEYS = ("logits", "logit", "out", "output", "outputs", "pred", "preds", "prediction", "predictions", "scores")
PROBES = (1, -1, 100, -100, 1e4, -1e4)  # times an image's contrast
MIRRORED = ("classes", "input_size", "arch", "differentiable")  # what a module may say of itself


def logits_of(output: Any, part: int | None = None) -> Any:
    """The part of a network's output that holds the logits; a tensor, or torch.fx's stand-in for one, as it is.

    Of a mapping that under `logits` or a like key, of an object its `.logits`, of a tuple or list the first, or the one of
    number `part`. Raises InputError for a mapping without such a key.
    """
    inside, said = _opened(output, part)
    return logits_of(inside) if said else output


def mean_probabilities(logs: list[Tensor]) -> Tensor:
    """The logarithm of the mean of several softmaxes, given their logarithms, each N,K: itself logits."""
    return torch.stack(logs).logsumexp(0) - math.log(len(logs))


def choose_part(output: Any, columns: int) -> int | None:
    """Which part of a tuple or list has as many columns as there are classes, where that is one and not the first; else
    None."""
    if not _is_several(output):
        return None
    fitting = [number for number, width in enumerate(map(_columns, output)) if width == columns]
    return fitting[0] if len(fitting) == 1 and fitting[0] != _first(output) else None


def part_of(output: Any, part: int | None = None) -> str:
    """Which part `logits_of` takes, in words; "" for a tensor."""
    return _opened(output, part)[1]


def _opened(output: Any, part: int | None) -> tuple[Any, str]:
    """The part of an output that holds the logits, and which that is, in words; "" for an output without parts."""
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
        said = f"{which} of {len(output)} parts of a {type(output).__name__}{shapes}"
        return output[_first(output) if part is None else part], said
    return output, ""


class Wrapper(nn.Module):
    """A model in another one that gives the same logits or their mean, with what the model says of itself.

    Attacks search on it as it is written: no copy of it is folded, compiled or run in low precision.
    """

    repeats = 1  # passes of the model inside for one of this one

    def __init__(self, model: nn.Module, title: str) -> None:
        """title: the spec, with {} for the model's name."""
        super().__init__()
        self.model = model
        self.title = title.replace("{}", str(getattr(model, "title", type(model).__name__)))
        mirror(model, self)


def chains_in(model: nn.Module) -> list[list[Wrapper]]:
    """The wrappers of a model that lie inside one another, from the outermost on: a list for each of the innermost."""
    inside = [chain for child in model.children() for chain in chains_in(child)]
    return [[model, *chain] for chain in inside or [[]]] if isinstance(model, Wrapper) else inside


def passes_of(chains: Iterable[Iterable[Wrapper]]) -> int:
    """Passes of the model inside these wrappers for one of the whole; of models side by side, of the one with most."""
    return max((math.prod(one.repeats for one in chain) for chain in chains), default=1)


def mirror(model: nn.Module, wrapper: nn.Module) -> None:
    """What a model says of itself, and its mode, are those of a wrapper around it, too."""
    for name in MIRRORED:
        if not isinstance(value := getattr(model, name, None), (nn.Module, Tensor, type(None))):
            setattr(wrapper, name, value)
    wrapper.training = model.training


class Logits(nn.Module):
    """Wraps a module whose output is not logits N,K as one that gives them; the module stays as it is."""

    def __init__(
        self, model: nn.Module, *, part: int | None = None, single: bool = False, probability: bool = False
    ) -> None:
        """part: of the tuple that it gives. single: its one logit z speaks for class 1 of two; their logits are -z/2 and
        z/2, whose softmax is its sigmoid. probability: what it gives is that sigmoid."""
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
    """The model where it gives logits N,K, else one around it that does; and what was taken, in a line, "" for nothing.

    images: some, N,C,H,W on the model's device and in its precision; the first is passed through, and all where they tell
    more. classes: how many there are, where that is known. labels: which hint at it else. What gives no logits either way
    is returned as it is: `check_logits` says why. Raises InputError, also for a tuple whose first part is hardly it.
    """
    image = images[:1]
    with torch.no_grad(), frozen(model):
        output = model(image.clone())
        taken = isinstance(output, Tensor) and hasattr(model, "raw_output")  # by a Classifier
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
    said = [f"logits taken from {part}"] if part else []
    shape, n = tuple(logits.shape), len(image)
    trailing = len(shape) > 2 and set(shape[2:]) == {1}
    if shape == (n,) or (len(shape) > 1 and shape[0] == logits.numel() == n):
        probability = _gives_probabilities(Logits(model, part=number), images)
        what = "one logit speaks for class 1 of two, above 0 means class 1"
        if probability:
            what = "one probability p is that of class 1 of two, above 0.5 means class 1: its logit z is taken back"
        said.append(f"its {what}: logits -z/2 and z/2")
        return Logits(model, part=number, single=True, probability=probability), "; ".join(said)
    if trailing and shape[0] == n:
        said.append(f"output N,{','.join(map(str, shape[1:]))} is taken as N,{shape[1]}")
    elif logits.ndim != 2:
        return model, ""
    nameless = bool(part) and not getattr(model, "classes", ())  # or what was chosen here would be asked again
    wrapped = not isinstance(output, Tensor) or trailing or number is not None or nameless
    return (Logits(model, part=number) if wrapped else model), "; ".join(said)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside one of these."""
    return model.model if isinstance(model, Logits) else model


def _gives_probabilities(model: nn.Module, images: Tensor) -> bool:
    """Whether a model of one output keeps it within [0, 1]: on images, and far outside of them, where a logit leaves it."""
    found: list[Tensor] = []
    with torch.no_grad(), frozen(model):
        for image in images.split(1):
            for factor in PROBES:
                try:
                    found.append(model((image - 0.5) * factor + 0.5).flatten())
                except Exception:  # what takes no such pixels may raise anything
                    if factor == 1:
                        raise
    values = torch.cat(found)
    values = values[~values.isnan()]
    return bool(((values >= 0) & (values <= 1)).all())


def _raw(model: nn.Module, x: Tensor) -> Any:
    """What the network gives, of a Classifier before it takes a part of it."""
    return getattr(model, "raw_output", model)(x)


def _is_several(output: Any) -> bool:
    return isinstance(output, (tuple, list)) and len(output) > 0 and not _has_logits(output)


def _first(output: Any) -> int:
    return next((number for number, part in enumerate(output) if part is not None), 0)


def _columns(output: Any) -> int | None:
    """Of N,K; None for anything else."""
    return output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else None


def _has_logits(output: Any) -> bool:
    """Asked of the type and of the instance's own values: torch.fx's stand-in for a tensor has every attribute."""
    return "logits" in getattr(output, "__dict__", {}) or hasattr(type(output), "logits")


def _key(output: Mapping) -> Any:
    found = next((key for key in KEYS if key in output), None)
    if found is not None:
        return found
    tensors = [key for key, value in output.items() if isinstance(value, Tensor) and value.ndim == 2]
    if len(tensors) != 1:
        raise InputError(
            f"the model gives a mapping with {_listed(list(map(str, output)))}: name the logits 'logits' in it, or return them"
        )
    return tensors[0]


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:4])) + (" ..." if len(names) > 4 else "")
