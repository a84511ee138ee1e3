"""Prune a model by a method of deploy/pruning, and report what was removed."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcls.core import plugins
from robustcls.core.classifier import Classifier, device_of
from robustcls.core.errors import InputError, one_line
from robustcls.core.gradients import frozen
from robustcls.models.shapes import shapes_of, take_shapes
from robustcls.runtime.flops import forward_flops

RANKED_ON = 256  # number of training images on which channels are ranked


@dataclass(frozen=True)
class Pruned:
    """The size of a model before and after pruning."""

    spec: str
    parameters: tuple[int, int]
    macs: tuple[int, int]  # multiply-adds of one image

    def __str__(self) -> str:
        return f"{self.spec}: {_fall(self.parameters, 'parameters')}, {_fall(self.macs, 'multiply-adds')}"


def size_of(model: Classifier) -> tuple[int, int]:
    """Return the number of parameters, and of multiply-adds for one image."""
    x = torch.zeros(1, *model.input_size, device=device_of(model))
    with frozen(model):
        flops = forward_flops(model, x)
    return sum(parameter.numel() for parameter in model.parameters()), int(flops) // 2


def prune(model: Classifier, method: str, images: Tensor, labels: Tensor) -> None:
    """Prune a model in place. `model.pruned` then names the methods; checkpoints save it with the widths of the layers.

    Args:
        model: a trained model.
        method: a spec such as `channels(ratio=0.5)`. See `robustcls list prune`.
        images, labels: a few hundred training images N,C,H,W in [0, 1] and labels N.

    Raises:
        InputError: if the model cannot be pruned with this method, or a checkpoint could not describe the pruned layers.
    """
    full = copy.deepcopy(model)
    plugins.load("prune", method)(model, images, labels)
    x = images[:2].to(device_of(model))
    try:
        take_shapes(full.net, shapes_of(model.net), state := model.net.state_dict(), model.arch)
        full.net.load_state_dict(state)
        with torch.no_grad(), frozen(model), frozen(full):
            logits, again = model(x), full(x)
    except (RuntimeError, InputError) as error:
        raise InputError(f"{method} leaves layers that a checkpoint cannot describe: {one_line(error):.160}") from None
    if logits.shape != (len(x), len(model.classes)) or not torch.allclose(logits, again, rtol=1e-3, atol=1e-4):
        raise InputError(f"{method} leaves layers that a checkpoint cannot describe: they are not part of {model.arch}")
    spec = plugins.parse("prune", method)
    full_spec = plugins.Spec(spec.name, (), tuple(plugins.resolved("prune", method).items()))
    model.pruned = " + ".join(filter(None, (getattr(model, "pruned", ""), str(full_spec))))  # type: ignore[assignment]


def _fall(values: tuple[int, int], what: str) -> str:
    before, after = values
    return f"{before:,} -> {after:,} {what} ({after / before:.1%})"
