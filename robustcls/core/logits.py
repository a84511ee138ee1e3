"""The logits in what a network gives: a tensor, a mapping, a tuple, an object with `.logits`, or one logit for two classes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen

KEYS = ("logits", "logit", "out", "output", "outputs", "pred", "preds", "prediction", "predictions", "scores")
MIRRORED = ("classes", "input_size", "arch", "differentiable")  # what a module may say of itself


def logits_of(output: Any) -> Any:
    """The part of a network's output that holds the logits; a tensor, or torch.fx's stand-in for one, as it is.

    Of a mapping that under `logits` or a like key, of an object its `.logits`, of a tuple or list the first part. Raises
    InputError for a mapping without such a key.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return logits_of(output[_key(output)])
    if _has_logits(output):
        return logits_of(output.logits)
    if isinstance(output, (tuple, list)) and len(output):
        return logits_of(next((part for part in output if part is not None), None))
    return output


def part_of(output: Any) -> str:
    """Which part `logits_of` takes, in words; "" for a tensor."""
    if isinstance(output, Tensor):
        return ""
    if isinstance(output, Mapping):
        key = _key(output)
        return f"{key!r} of a mapping with {_listed(list(map(str, output)))}"
    if _has_logits(output):
        return f".logits of {type(output).__name__}"
    if isinstance(output, (tuple, list)) and len(output):
        return f"the first of {len(output)} parts of a {type(output).__name__}"
    return ""


class Logits(nn.Module):
    """A module of somebody else's whose output is not logits N,K, as one that gives them; the module stays as it is."""

    def __init__(self, model: nn.Module, *, single: bool = False) -> None:
        """single: its one logit z speaks for class 1 of two; their logits are -z/2 and z/2, whose softmax is its sigmoid."""
        super().__init__()
        self.model, self.single = model, single
        for name in MIRRORED:
            if not isinstance(value := getattr(model, name, None), (nn.Module, Tensor, type(None))):
                setattr(self, name, value)
        self.training = model.training

    def forward(self, x: Tensor) -> Tensor:
        logits = logits_of(self.model(x))
        if self.single:
            half = logits.reshape(-1) / 2
            return torch.stack([-half, half], 1)
        return logits.reshape(x.shape[0], -1)


def as_classifier(model: nn.Module, images: Tensor) -> tuple[nn.Module, str]:
    """The model where it gives logits N,K, else one around it that does; and what was taken, in a line, "" for nothing.

    images: some, N,C,H,W on the model's device and in its precision, which are passed through. What gives no logits either
    way is handed back as it is: `check_logits` says why. Raises InputError.
    """
    with torch.no_grad(), frozen(model):
        output = model(images.clone())
        part, logits = part_of(output), logits_of(output)
        if not part and (inner := getattr(model, "raw_output", None)) is not None:  # a Classifier took it already
            part = part_of(inner(images.clone()))
    if not isinstance(logits, Tensor):
        return model, ""
    said = [f"logits taken from {part}"] if part else []
    shape, n = tuple(logits.shape), len(images)
    trailing = len(shape) > 2 and set(shape[2:]) == {1}
    if shape == (n,) or (len(shape) > 1 and shape[0] == logits.numel() == n):
        said.append("its one logit speaks for class 1 of two, above 0 means class 1: logits -z/2 and z/2")
        return Logits(model, single=True), "; ".join(said)
    if trailing and shape[0] == n:
        said.append(f"output N,{','.join(map(str, shape[1:]))} is taken as N,{shape[1]}")
    elif logits.ndim != 2:
        return model, ""
    return (Logits(model) if not isinstance(output, Tensor) or trailing else model), "; ".join(said)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside one of these."""
    return model.model if isinstance(model, Logits) else model


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
