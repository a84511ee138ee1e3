"""Builds models from specs, and saves and loads them as checkpoints that contain only tensors and primitives."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError, as_input_error
from robustcls.core.files import atomic_write
from robustcls.core.gradients import frozen
from robustcls.models import zoo
from robustcls.models.heads import LINEAR, replace_head
from robustcls.models.shapes import shapes_of, take_shapes
from robustcls.runtime.low_rank import low_rank_layers, merge

FORMAT = "robustcls/checkpoint/1"
SIGNATURE = "(num_classes, input_size), input_size being (C, H, W)"
Arch = str | Callable[..., nn.Module]


def build(
    arch: Arch,
    *,
    classes: Sequence[str],
    input_size: Sequence[int],
    head: str = LINEAR,
    **normalisation: Sequence[float],
) -> Classifier:
    """Build an untrained classifier. Raises InputError.

    arch: a spec such as `vgg16(width=0.25)` or `torchvision/resnet18`, a function of (num_classes, input_size), or the network
    itself. head: such as `512-relu-K`. normalisation: mean, std.
    """
    net = _make_net(arch, len(classes), input_size)
    model = Classifier(net, classes=classes, input_size=input_size, arch=arch_name(arch), **normalisation)
    replace_head(model, head)
    return model


def arch_name(arch: Arch) -> str:
    """Return the spec of an architecture, or `module:name` of a Python object."""
    if isinstance(arch, str):
        return arch
    named = type(arch) if isinstance(arch, nn.Module) or not hasattr(arch, "__qualname__") else arch
    return f"{named.__module__}:{named.__qualname__}"


def _make_net(arch: Arch, outputs: int, input_size: Sequence[int]) -> nn.Module:
    """Build the network without its head. Raises InputError, also for any exception of a user's function."""
    if isinstance(arch, nn.Module):
        return arch
    if isinstance(arch, str) and zoo.is_zoo(arch):
        return zoo.make_net(arch, outputs, input_size)
    if isinstance(arch, str) and ":" not in arch:
        return plugins.load("model", arch)(outputs, input_size)
    with as_input_error(f"`arch={arch_name(arch)}` failed", f": it is called with {SIGNATURE}"):
        net = plugins.load("model", arch)(outputs, input_size)
    if not isinstance(net, nn.Module):
        result = f"`arch={arch_name(arch)}` gave {type(net).__name__}"
        raise InputError(f"{result}: called with {SIGNATURE}, it must return a torch.nn.Module")
    return net


def save_checkpoint(path: str | Path, model: Classifier, meta: Mapping[str, Any], **extra: Any) -> None:
    """Write a checkpoint atomically.

    A pruned model is saved with the widths of its layers. Low-rank matrices are merged into the weights.

    meta: primitives, such as data, threat model and versions. extra: further entries, such as those that resuming needs.
    """
    net = merge(copy.deepcopy(model.net)) if low_rank_layers(model) else model.net
    if pruned := getattr(model, "pruned", ""):
        extra |= {"pruned": pruned, "shapes": shapes_of(net)}
    content = {
        "format": FORMAT,
        "arch": model.arch,
        "head": getattr(model, "head", LINEAR),
        "classes": list(model.classes),
        "input_size": list(model.input_size),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "state_dict": {name: tensor.contiguous() for name, tensor in net.state_dict().items()},
        "meta": dict(meta),
        **extra,
    }
    with atomic_write(path) as part:
        torch.save(content, part)


def is_checkpoint(content: Any) -> bool:
    """Whether the content of a file is a checkpoint of this package."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def restore(content: Mapping[str, Any], name: str, trusted: Arch | None = None) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier of a checkpoint and its meta. Raises InputError where the weights do not fit the architecture.

    A user's architecture, `module:function`, is code, and a file must not choose which code is run. Such a checkpoint is
    restored only where `trusted` names the same architecture, or is it.
    """
    try:
        classes, input_size, arch = content["classes"], content["input_size"], content["arch"]
        made = arch
        if ":" in str(arch) and trusted is not None and not isinstance(trusted, str):
            made = trusted
        elif ":" in str(arch) and arch != trusted:
            network = "arch" in content["meta"].get("from_python", ())
            how = (
                f"give the network itself, or what makes it, as `arch`: it was made by {arch}"
                if network
                else (f"if you trust that code, say so with `arch={arch!r}`")
            )
            raise InputError(f"{name} asks to run {arch!r}: {how}")
        normalisation = {"mean": content["mean"], "std": content["std"]}
        head = content.get("head", LINEAR)  # absent in older checkpoints
        # The initial weights are replaced below, so their random numbers must not advance the caller's generator.
        with torch.random.fork_rng(devices=[]):
            model = build(made, classes=classes, input_size=input_size, head=head, **normalisation)
        model.arch = arch
        take_pruned(model, content, name)
        load_weights(model.net, content["state_dict"], name)
        return model.eval(), content["meta"]
    except KeyError as error:
        raise InputError(f"{name} lacks {error}: it is damaged or of another version") from None


def take_pruned(model: Classifier, content: Mapping[str, Any], name: str) -> None:
    """Give a fresh model the layer widths of a pruned checkpoint, so that its weights can be loaded. Else do nothing.

    Raises InputError for widths above those of the architecture, or that do not fit together.
    """
    if "shapes" not in content:
        return
    take_shapes(model.net, content["shapes"], content.get("state_dict", {}), name)
    with as_input_error(f"{name}: its pruned layers do not fit together"), torch.no_grad(), frozen(model):
        model(torch.zeros(1, *model.input_size))
    model.pruned = str(content.get("pruned", ""))  # type: ignore[assignment]


def load_weights(net: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load a state dict in place. Raises InputError that names the first weight that does not fit."""
    wanted = net.state_dict()
    for key, tensor in wanted.items():
        if key not in state:
            raise InputError(f"{name} has no weight {key!r}: is `arch` the architecture that it was trained with?")
        if state[key].shape != tensor.shape:
            have, want = tuple(state[key].shape), tuple(tensor.shape)
            raise InputError(
                f"{name}: weight {key!r} is {have}, the architecture wants {want}: other classes, image size or width?"
            )
    dropped = zoo.AUXILIARY if hasattr(net, "aux_logits") else ()
    surplus = next((key for key in state if key not in wanted and not key.startswith(dropped)), None)
    if surplus is not None:
        raise InputError(
            f"{name} has a weight {surplus!r} that `arch` lacks: is it the architecture it was trained with?"
        )
    net.load_state_dict({key: state[key] for key in wanted})
