"""Models of the zoos torchvision and timm: `torchvision/resnet18`, `timm/vit_tiny_patch16_224`.

The additional option `size` resizes images inside the network, after the normalisation, so that attacks work on the data's
pixels: `torchvision/alexnet(size=64)`.
"""

import os
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError, one_line, unknown
from robustcls.core.gradients import frozen
from robustcls.models.weights import read_file

ZOOS = ("torchvision/", "timm/")
DOWNLOAD = "ROBUSTCLS_DOWNLOAD"  # environment variable that must be 1 to allow downloads
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # auxiliary heads of GoogLeNet and Inception, used only in training
SIDES = (32, 64, 96, 128, 224, 256, 384, 448, 518)  # values of `size` that an error message may suggest


def is_zoo(spec: str) -> bool:
    """Whether a spec names a model of a zoo."""
    return spec.startswith(ZOOS) and not Path(spec).is_file()


def make_net(spec: str, num_classes: int, input_size: Sequence[int]) -> nn.Module:
    """Build an untrained network of a zoo, such as `timm/vit_tiny_patch16_224(img_size=32)`: N,C,H,W to logits N,K.

    Grey images are repeated to three equal channels for torchvision's networks. Raises InputError, also for images that are too
    small for the network.
    """
    zoo, name, size, options = _parse(spec)
    channels = input_size[0] if zoo == "timm" else 3
    if input_size[0] not in (1, channels):
        raise InputError(f"{spec} takes 1 or 3 channels, the data has {input_size[0]}: timm/NAME adapts to any")
    if zoo == "timm":
        timm, _ = _import_timm(name)
        net = _made(spec, timm.create_model, name, num_classes=num_classes, in_chans=channels, **options)
    else:
        models = _import_torchvision(name)
        net = _made(spec, models.get_model, name, weights=None, num_classes=num_classes, **options)
    net = _without_auxiliary(net)
    height, width = (size, size) if size else input_size[1:]
    _check_takes(net, spec, (channels, height, width))
    return _adapted(net, size, repeats=channels // input_size[0])


def load_pretrained(spec: str) -> tuple[Classifier, Path]:
    """Return the classifier with its zoo's default weights, and their file.

    Normalisation, image size and classes come with the weights. Only files in the zoo's cache are read, unless
    $ROBUSTCLS_DOWNLOAD is 1. Raises InputError.
    """
    zoo, name, size, options = _parse(spec)
    model, file = (_from_timm if zoo == "timm" else _from_torchvision)(spec, name, options)
    _adapted(model.net, size)
    return model, file


def decoding_of_zoo(spec: str) -> dict[str, Any]:
    """Return how the zoo decodes images for its default weights, as options of `folder`: size, resize and filter.

    Empty where the spec resizes inside the network, and where the zoo does not crop the centre (it squashes or pads images).
    """
    zoo, name, size, _ = _parse(spec)
    if size is not None:
        return {}
    if zoo == "timm":
        timm, config = _import_timm(name)
        shown = timm.data.resolve_data_config({}, pretrained_cfg=config.to_dict())
        if shown.get("crop_mode", "center") != "center":
            return {}
        side = shown["input_size"][-1]
        # The computation of timm.data.transforms_factory, which uses torchvision's Resize.
        return {"size": side, "resize": int(side / shown["crop_pct"]), "filter": shown["interpolation"]}
    shown = _import_torchvision(name).get_model_weights(name).DEFAULT.transforms()
    return {"size": shown.crop_size[0], "resize": shown.resize_size[0], "filter": shown.interpolation.value}


def _from_torchvision(spec: str, name: str, options: dict[str, Any]) -> tuple[Classifier, Path]:
    models = _import_torchvision(name)
    weights = models.get_model_weights(name).DEFAULT
    file = _hub_file(weights.url)
    _allow(spec, file if file.is_file() else None, f"put {weights.url} into {file.parent}")
    if file.is_file():
        read_file(file)  # check that the file is safe: torchvision would run code in a pickle
    net = _without_auxiliary(_made(spec, models.get_model, name, weights=weights, **options))
    shown = weights.transforms()
    side, mean, std = shown.crop_size[0], shown.mean, shown.std
    if getattr(net, "transform_input", False):  # the Classifier applies the network's own normalisation instead
        net.transform_input, mean, std = False, (0.5,), (0.5,)
    classes = weights.meta["categories"]
    return Classifier(net, classes=classes, input_size=(3, side, side), mean=mean, std=std, arch=spec).eval(), file


def _from_timm(spec: str, name: str, options: dict[str, Any]) -> tuple[Classifier, Path]:
    timm, config = _import_timm(name)
    if not (config.hf_hub_id or config.url):
        raise InputError(f"{spec} has no pretrained weights: name a state dict instead, and `arch={spec}`")
    file = _cached_by_timm(config)
    _allow(spec, file, f"fetch {config.hf_hub_id or config.url} into timm's cache")
    if file is None:
        _made(spec, timm.create_model, name, pretrained=True, **options)
        file = _cached_by_timm(config)
        if file is None:
            raise InputError(f"{spec}: timm kept no file of its weights: name a state dict instead, and `arch={spec}`")
    read_file(file)
    net = _made(spec, timm.create_model, name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **options)
    shown = timm.data.resolve_data_config({}, model=net)
    own = {name: shown[name] for name in ("input_size", "mean", "std")}
    return Classifier(net, classes=_classes_of_timm(timm, net), arch=spec, **own).eval(), file


def _parse(spec: str) -> tuple[str, str, int | None, dict[str, Any]]:
    parsed = plugins.parse("model", spec)
    zoo, _, name = parsed.name.partition("/")
    options = dict(parsed.options)
    size = options.pop("size", None)
    if size is not None and not (type(size) is int and 1 <= size <= 4096):
        raise InputError(f"{spec}: size={size!r} is not the side of an image: give a whole number, such as 64")
    return zoo, name, size, options


def _without_auxiliary(net: Any) -> Any:
    """Remove auxiliary heads, so that the network returns only logits in train and eval mode."""
    if getattr(net, "aux_logits", False):
        net.aux_logits = False
        for prefix in AUXILIARY:
            if hasattr(net, prefix.rstrip(".")):
                setattr(net, prefix.rstrip("."), None)
    return net


def _check_takes(net: nn.Module, spec: str, input_size: Sequence[int]) -> None:
    if (reason := _refusal(net, input_size)) is None:
        return
    channels, height, width = input_size
    side = next((side for side in SIDES if _refusal(net, (channels, side, side)) is None), "...")
    raise InputError(
        f"{spec} cannot take images of {height}x{width} ({reason:.100}): "
        f"give {spec.partition('(')[0]}(size={side}), which resizes them inside"
    )


def _refusal(net: nn.Module, input_size: Sequence[int]) -> str | None:
    """Return why the network cannot take images C,H,W; None where it can."""
    try:
        with torch.no_grad(), frozen(net):
            net(torch.zeros(1, *input_size))
    except Exception as error:  # any exception of the first layer for which too few pixels are left
        return one_line(error)
    return None


def _adapted(net: nn.Module, size: int | None, repeats: int = 1) -> nn.Module:
    """Make the network resize images and repeat channels before its first layer, by a hook, so weights keep their names."""
    if size or repeats > 1:
        net.register_forward_pre_hook(partial(_adapt, size, repeats))
    return net


def _adapt(size: int | None, repeats: int, net: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    (x,) = inputs
    if size:
        x = interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=False)
    return x.repeat(1, repeats, 1, 1) if repeats > 1 else x


def _import_torchvision(name: str) -> Any:
    from torchvision import models

    known = models.list_models(module=models)  # only classifiers, not detection, segmentation or video
    if name not in known:
        raise unknown("torchvision model", name, known)
    return models


def _import_timm(name: str) -> tuple[Any, Any]:
    try:
        import timm
        import timm.data
    except ImportError:
        raise InputError(f"timm/{name} needs timm: pip install 'robustcls[timm]'") from None
    if not timm.is_model(name):
        near = ", ".join(get_close_matches(name, timm.list_models(), n=3, cutoff=0.5))
        hint = f"did you mean one of {near}? " if near else ""
        raise InputError(f"unknown timm model {name!r}: {hint}timm.list_models() names them all")
    return timm, timm.get_pretrained_cfg(name)


def _made(spec: str, builder: Any, name: str, **options: Any) -> nn.Module:
    try:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # about initial weights that may change
            return builder(name, **options)
    except Exception as error:  # options, the file or the network can make a builder raise anything
        raise InputError(f"{spec} cannot be made: {one_line(error):.200}") from error


def _allow(spec: str, file: Path | None, how: str) -> None:
    if file is None and os.environ.get(DOWNLOAD) != "1":
        raise InputError(f"{spec}: its weights are not on this machine: set {DOWNLOAD}=1 to download them, or {how}")


def _hub_file(url: str) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def _cached_by_timm(config: Any) -> Path | None:
    """Return the file of the weights in the cache of Hugging Face or of torch.hub; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    if config.hf_hub_id:
        repository, _, revision = config.hf_hub_id.partition("@")
        names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
        for name in names:
            found = try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(found, str):
                return Path(found)
    file = _hub_file(config.url) if config.url else None
    return file if file is not None and file.is_file() else None


def _classes_of_timm(timm: Any, net: nn.Module) -> Sequence[str]:
    count = int(getattr(net, "num_classes", 0))
    subset = timm.data.infer_imagenet_subset(net)
    names = timm.data.ImageNetInfo(subset).label_descriptions() if subset else ()
    return [name.partition(",")[0] for name in names] if len(names) == count else [str(i) for i in range(count)]
