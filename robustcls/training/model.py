"""The model that a run begins with: what it is shown of the pixels, its first weights, the logits that it must give."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.options import parse_numbers
from robustcls.data.images import Images
from robustcls.data.splits import choose
from robustcls.deploy.prune import RANKED_ON, Pruned, prune, size_of
from robustcls.models.checkpoint import Arch, build, take_pruned
from robustcls.models.heads import drop_before_head
from robustcls.models.transfer import initialise
from robustcls.runtime.predict import classifier_of
from robustcls.training.config import TrainConfig

DATA = "data"  # for `mean` and `std`: those of the training images


def make_model(
    config: TrainConfig, train: Images, arch: Arch | None = None, *, last: Mapping[str, Any] | None = None
) -> tuple[Classifier, dict[str, object]]:
    """A model of config.arch for the training images, with the first weights of config.init, pruned where that is asked,
    and what is said of it.

    Args:
        arch: in place of config.arch, a module, which is copied, or a function (num_classes, input_size) that makes one.
        last: what last.pt holds of a run that goes on: the model is as narrow as there, and its weights are to come.

    Raises:
        InputError: unless the model gives one logit for each class; for random weights that are to be pruned.
    """
    if config.prune and not config.init and not isinstance(arch, nn.Module):
        raise InputError(
            "`prune` removes what trained weights need least, and these are random: name a checkpoint with `init`"
        )
    if config.tune != "all" and not config.init and not isinstance(arch, nn.Module):
        raise InputError(
            f'`tune="{config.tune}"` leaves most weights as they are, and these are random: name a checkpoint with `init`'
        )
    mean, std = normalisation(config, train.pixels)
    made = copy.deepcopy(arch) if isinstance(arch, nn.Module) else arch or config.arch
    size = train.pixels.shape[1:]
    model = build(made, classes=train.classes, input_size=size, mean=mean, std=std, head=config.head)
    notes: dict[str, object] = {} if last else {"output": check_outputs(model, train)}
    full = size_of(model) if config.init or config.prune else (0, 0)
    if last:
        take_pruned(model, last, "last.pt")
    elif config.init:
        notes["init"] = initialise(model, config.init)
    if config.mean or config.std:  # what was asked for wins over what the weights were trained with
        model.mean, model.std = (model.mean.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    if config.prune and not last:
        prune(model, config.prune, *choose(train, RANKED_ON).batch())
    if pruned := getattr(model, "pruned", ""):
        parameters, macs = zip(full, size_of(model), strict=True)
        notes["pruned"] = Pruned(pruned, parameters, macs)
    if config.dropout:
        drop_before_head(model, config.dropout)
    return model, notes


def normalisation(config: TrainConfig, pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and std of each channel in front of the network, on the [0, 1] scale.

    Those asked for (`data`: the training images' own), else the training images' own, but none in front of a module of the
    user's own: `module:callable` sees [0, 1] pixels, whether it is trained here or comes trained.
    """
    channels = pixels.shape[1]
    if config.mean is config.std is None and ":" not in config.arch:
        return channel_statistics(pixels)
    own = channel_statistics(pixels) if DATA in (config.mean, config.std) else None
    mean, std = (
        own[place]
        if own and text == DATA
        else parse_numbers(text, name) or [float(place)]  # 0 and 1 where none is given
        for place, (text, name) in enumerate(((config.mean, "mean"), (config.std, "std")))
    )
    return (mean * channels if len(mean) == 1 else mean), (std * channels if len(std) == 1 else std)


def check_outputs(model: Classifier, train: Images) -> str:
    """Which part of the network's output is taken for the logits, "" for all of it. Raises InputError unless there is one
    for each class."""
    x, _ = train.batch(slice(2))
    fitted, said = classifier_of(model, x)
    with frozen(fitted), torch.no_grad():
        logits = fitted(x.cpu())
    outputs = logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
    if fitted is model and outputs == len(train.classes):
        return said
    if fitted is not model:
        gives = "one logit" if getattr(fitted, "single", False) else f"something else ({said})"
    else:
        gives = "no logits N,K" if outputs is None else f"{outputs} outputs"
    raise InputError(
        f"{model.arch} gives {gives} for {len(train.classes)} classes, {train.classes[0]!r} first: its function is "
        "called with the number of classes and must give one logit for each"
    )


def channel_statistics(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of uint8 pixels N,C,H,W, on the [0, 1] scale."""
    means, squares = [], []
    for chunk in pixels.split(4096):
        values = chunk.double() / 255
        means.append(values.mean((2, 3)).sum(0))
        squares.append(values.square().mean((2, 3)).sum(0))
    mean = torch.stack(means).sum(0) / len(pixels)
    variance = torch.stack(squares).sum(0) / len(pixels) - mean.square()
    return mean.tolist(), variance.clamp_min(1e-8).sqrt().tolist()
