"""The model that a run begins with: its normalisation, its initial weights, and a check of its outputs."""

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

DATA = "data"  # value of `mean` and `std` that stands for the statistics of the training images


def make_model(
    config: TrainConfig, train: Images, arch: Arch | None = None, *, last: Mapping[str, Any] | None = None
) -> tuple[Classifier, dict[str, object]]:
    """Build the model of config.arch for the training images, load the weights of config.init, and prune it if asked.

    Args:
        arch: in place of config.arch: a module, which is copied, or a function (num_classes, input_size) that returns one.
        last: the content of last.pt, for a run that is resumed. Layers get the pruned widths stored there; the weights are
            loaded later.

    Returns:
        The model, and notes on it by topic: `output` and `init` (texts), `pruned` (a Pruned), as far as they apply.

    Raises:
        InputError: unless the model gives one logit per class; for `prune` or `tune` on random weights.
    """
    if config.prune and not config.init and not isinstance(arch, nn.Module):
        raise InputError(
            "`prune` removes the channels that trained weights need least, and these weights are random: name a checkpoint "
            "with `init`"
        )
    if config.tune != "all" and not config.init and not isinstance(arch, nn.Module):
        raise InputError(
            f'`tune="{config.tune}"` leaves most weights unchanged, and these are random: name a checkpoint with `init`'
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
    if config.mean or config.std:  # the user's values win over those that the weights were trained with
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
    """Return the mean and std per channel that are applied in front of the network, on the [0, 1] scale.

    These are the values of config.mean and config.std, where `data` stands for the statistics of the training images. The
    default is those statistics, except for a `module:callable`, which sees [0, 1] pixels: it gets mean 0 and std 1.
    """
    channels = pixels.shape[1]
    if config.mean is config.std is None and ":" not in config.arch:
        return channel_statistics(pixels)
    own = channel_statistics(pixels) if DATA in (config.mean, config.std) else None
    mean, std = (
        own[place]
        if own and text == DATA
        else parse_numbers(text, name) or [float(place)]  # without a value: mean 0, std 1
        for place, (text, name) in enumerate(((config.mean, "mean"), (config.std, "std")))
    )
    return (mean * channels if len(mean) == 1 else mean), (std * channels if len(std) == 1 else std)


def check_outputs(model: Classifier, train: Images) -> str:
    """Return a note on which part of the network's output is used as the logits, "" for all of it.

    Raises InputError unless there is one logit per class.
    """
    x, _ = train.batch(slice(2))
    fitted, note = classifier_of(model, x)
    with frozen(fitted), torch.no_grad():
        logits = fitted(x.cpu())
    outputs = logits.shape[1] if isinstance(logits, Tensor) and logits.ndim == 2 else None
    if fitted is model and outputs == len(train.classes):
        return note
    if fitted is not model:
        outcome = "one logit" if getattr(fitted, "single", False) else f"something else ({note})"
    else:
        outcome = "no logits N,K" if outputs is None else f"{outputs} outputs"
    raise InputError(
        f"{model.arch} gives {outcome} for {len(train.classes)} classes, {train.classes[0]!r} first: its function is "
        "called with the number of classes and must give one logit for each"
    )


def channel_statistics(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation per channel of uint8 pixels N,C,H,W, on the [0, 1] scale."""
    means, squares = [], []
    for chunk in pixels.split(4096):
        values = chunk.double() / 255
        means.append(values.mean((2, 3)).sum(0))
        squares.append(values.square().mean((2, 3)).sum(0))
    mean = torch.stack(means).sum(0) / len(pixels)
    variance = torch.stack(squares).sum(0) / len(pixels) - mean.square()
    return mean.tolist(), variance.clamp_min(1e-8).sqrt().tolist()
