"""Checkpoints: tensors and primitives alone, so that `torch.load(weights_only=True)` reads them and nothing else runs."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.files import replacing
from robustcls.models import zoo
from robustcls.models.heads import LINEAR, replace_head

FORMAT = "robustcls/checkpoint/1"


def build(
    arch: str,
    *,
    classes: Sequence[str],
    input_size: Sequence[int],
    head: str = LINEAR,
    **normalisation: Sequence[float],
) -> Classifier:
    """A fresh classifier of `arch`, a spec such as `vgg16(width=0.25)` or `torchvision/resnet18`, with a head such as
    `512-relu-K`. normalisation: mean, std. Raises InputError.
    """
    make_net = partial(zoo.make_net, arch) if zoo.is_zoo(arch) else plugins.load("model", arch)
    net = make_net(len(classes), input_size)
    model = Classifier(net, classes=classes, input_size=input_size, arch=arch, **normalisation)
    replace_head(model, head)
    return model


def save_checkpoint(path: str | Path, model: Classifier, meta: Mapping[str, Any], **more: Any) -> None:
    """Writes model and meta (primitives: data, threat model, versions ...) atomically. more: what resuming needs."""
    content = {
        "format": FORMAT,
        "arch": model.arch,
        "head": getattr(model, "head", LINEAR),
        "classes": list(model.classes),
        "input_size": list(model.input_size),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "state_dict": {name: tensor.contiguous() for name, tensor in model.net.state_dict().items()},
        "meta": dict(meta),
        **more,
    }
    with replacing(path) as part:
        torch.save(content, part)


def is_checkpoint(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def restore(content: Mapping[str, Any], name: str, trusted: str | None = None) -> tuple[Classifier, dict[str, Any]]:
    """The classifier of a checkpoint and its meta. Raises InputError where the weights do not fit the architecture.

    An architecture of somebody's own, `module:function`, is code: a file may not choose it, so `trusted` must name it too.
    """
    try:
        classes, input_size, arch = content["classes"], content["input_size"], content["arch"]
        if ":" in str(arch) and arch != trusted:
            raise InputError(f"{name} asks to run {arch!r}: if you trust that code, say so with --arch {arch!r}")
        normalisation = {"mean": content["mean"], "std": content["std"]}
        head = content.get("head", LINEAR)  # older checkpoints do not say
        model = build(arch, classes=classes, input_size=input_size, head=head, **normalisation)
        load_weights(model.net, content["state_dict"], name)
        return model.eval(), content["meta"]
    except KeyError as error:
        raise InputError(f"{name} lacks {error}: it is damaged or of another version") from None


def load_weights(net: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Loads a state dict in place. Raises InputError that names the first weight that does not fit."""
    wanted = net.state_dict()
    for key, tensor in wanted.items():
        if key not in state:
            raise InputError(f"{name} has no weight {key!r}: is --arch the architecture that it was trained with?")
        if state[key].shape != tensor.shape:
            have, want = tuple(state[key].shape), tuple(tensor.shape)
            raise InputError(
                f"{name}: weight {key!r} is {have}, the architecture wants {want}: other classes, image size or width?"
            )
    dropped = zoo.AUXILIARY if hasattr(net, "aux_logits") else ()
    surplus = next((key for key in state if key not in wanted and not key.startswith(dropped)), None)
    if surplus is not None:
        raise InputError(
            f"{name} has a weight {surplus!r} that --arch lacks: is it the architecture it was trained with?"
        )
    net.load_state_dict({key: state[key] for key in wanted})
