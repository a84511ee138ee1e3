"""The image classifier: it maps pixels in [0, 1] to logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.logits import logits_of


class Classifier(nn.Module):
    """A classifier that maps pixels in [0, 1], N,C,H,W, to logits N,K, with normalisation, input size and class names.

    The normalisation is part of the model, so that attacks work in pixel space and eps has its usual meaning.
    """

    normalised_inside = False  # whether the network already includes its normalisation, as the file of an artefact does

    def __init__(
        self,
        net: nn.Module,
        *,
        classes: Sequence[str],
        input_size: Sequence[int],
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        arch: str = "",
    ) -> None:
        """net: the network behind the normalisation. input_size: (C, H, W). mean, std: one value, or one per channel."""
        super().__init__()
        _check_normalisation(mean, std, input_size[0])
        self.net = net
        self.classes = tuple(classes)
        self.input_size: tuple[int, int, int] = (input_size[0], input_size[1], input_size[2])
        self.arch = arch
        self.differentiable = bool(getattr(net, "differentiable", True))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))
        self.normalise(mean, std)

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.raw_output(x))

    def raw_output(self, x: Tensor) -> Any:
        """Return the output of the network, which may be a mapping, a tuple or an object that contains the logits."""
        return self.net((x - self.mean) / self.std)

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set mean and std of the normalisation: one value each, or one per channel."""
        self.mean, self.std = (
            torch.tensor(list(values), dtype=torch.float32, device=self.mean.device).view(1, -1, 1, 1)
            for values in (mean, std)
        )

    @property
    def normalises(self) -> bool:
        """Whether the pixels are changed by the normalisation."""
        return bool((self.mean != 0).any() or (self.std != 1).any())


def _check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raise InputError if mean and std cannot be those of pixels in [0, 1]."""
    if not all(value > 0 for value in std):
        raise InputError(f"std {tuple(std)} is not positive: give the standard deviation of each channel")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise InputError(f"{name} has {len(values)} values for {channels} channels: give one, or one per channel")
        if all(0 <= value <= 1 for value in values):
            continue
        levels = max(values) > 1 and all(0 <= value <= 255 for value in values)
        meant = ",".join(f"{value / 255:.4g}" for value in values)
        hint = (
            f"in grey levels? divide by 255: {name} {meant}"
            if levels
            else f"give the {name} of each channel on that scale"
        )
        listed = ",".join(f"{value:.6g}" for value in values)
        raise InputError(f"{name} {listed} cannot be that of pixels in [0, 1], which the model receives: {hint}")


def sees(model: nn.Module) -> str:
    """Return one line about the input of the network inside a model: the pixels and the normalisation."""
    inner = model
    while not isinstance(inner, Classifier) and isinstance(inside := getattr(inner, "model", None), nn.Module):
        members = getattr(inner, "members", ())  # the models of an ensemble
        if isinstance(members, list) and len(lines := dict.fromkeys(map(sees, members))) > 1:
            return " and ".join(lines)
        inner = inside  # the model inside a wrapper
    if isinstance(inner, Classifier) and inner.normalised_inside:
        return "sees pixels in [0, 1], any normalisation is inside the file"
    if not (isinstance(inner, Classifier) and inner.normalises):
        return "sees pixels in [0, 1], no normalisation in front"
    mean, std = (
        ",".join(f"{value:.3g}" for value in values.flatten().tolist()[:4]) for values in (inner.mean, inner.std)
    )
    return f"sees (pixels - mean) / std: mean {mean}, std {std}"


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter, else of its first buffer, else the CPU.

    Raises InputError for a model on the meta device, which has no weights.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_meta:
            raise InputError("the model is on the meta device, without weights: load them first, such as with to_empty")
        return tensor.device
    return torch.device("cpu")


def dtype_of(model: nn.Module) -> torch.dtype:
    """Return the dtype of the model's parameters, else of its buffers, else float32."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def input_size_of(model: nn.Module) -> Sequence[int] | None:
    """Return (C, H, W) if the model declares it, else None. Foreign modules may use `input_size` for something else."""
    size = getattr(model, "input_size", None)
    return size if isinstance(size, (tuple, list, torch.Size)) and len(size) == 3 else None


def check_images(images: Tensor, labels: Tensor | None = None, input_size: Sequence[int] | None = None) -> None:
    """Raise InputError unless images are float N,C,H,W in [0, 1] (of `input_size`) and labels are integers, one per image."""
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) == 0:
        shape = tuple(getattr(images, "shape", ()))
        raise InputError(f"images of shape {shape}: give a non-empty float tensor N,C,H,W")
    if not images.is_floating_point():
        raise InputError(
            f"images are {images.dtype}: give floats in [0, 1], for instance images.float() / 255, or array / 255"
        )
    low, high = images.amin().item(), images.amax().item()
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"images lie in [{low:.3g}, {high:.3g}], not in [0, 1]: give pixels, and let the model normalise inside"
        )
    if input_size is not None and tuple(images.shape[1:]) != tuple(input_size):
        last = tuple(images.shape[1:]) == (*input_size[1:], input_size[0])
        fix = "channels come first, as in images.permute(0, 3, 1, 2)" if last else "resize the images"
        raise InputError(f"images are {_size(images.shape[1:])}, the model takes {_size(input_size)}: {fix}")
    if labels is None:
        return
    if not isinstance(labels, Tensor):
        raise InputError(f"labels are {type(labels).__name__}: give a tensor with one integer per image")
    if labels.ndim != 1 or len(labels) != len(images) or labels.is_floating_point():
        raise InputError(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype} for {len(images)} images: give one integer per image"
        )
    if labels.min().item() < 0:
        raise InputError(f"label {labels.min().item()} is negative: labels count from 0")


def check_logits(logits: Tensor, labels: Tensor | None = None) -> None:
    """Raise InputError unless logits are N,K with K >= 2 and every label is below K."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the model gives {shape}: it must give logits N,K of two classes or more")
    if labels is not None and labels.max().item() >= logits.shape[1]:
        raise InputError(
            f"label {labels.max().item()} is beyond the model's {logits.shape[1]} classes: is it a model for other data?"
        )


def _size(size: Sequence[int]) -> str:
    return "x".join(str(value) for value in size)
