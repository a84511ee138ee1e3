"""An image classifier: pixels in [0, 1] to logits."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.logits import logits_of


class Classifier(nn.Module):
    """Takes pixels in [0, 1] as N,C,H,W and gives logits N,K; owns normalisation, input size and class names.

    Normalisation happens inside, so that every attack works in pixel space and eps means what it says.
    """

    normalised_inside = False  # whether the network is one with its normalisation, as the file of an artefact is

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
        """What the network gives, which may be a mapping, a tuple or an object that holds the logits."""
        return self.net((x - self.mean) / self.std)

    def normalise(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Sets the normalisation: one value each, or one per channel."""
        self.mean, self.std = (
            torch.tensor(list(values), dtype=torch.float32, device=self.mean.device).view(1, -1, 1, 1)
            for values in (mean, std)
        )

    @property
    def normalises(self) -> bool:
        """Whether anything is done to the pixels before the network sees them."""
        return bool((self.mean != 0).any() or (self.std != 1).any())


def _check_normalisation(mean: Sequence[float], std: Sequence[float], channels: int) -> None:
    """Raises InputError unless mean and std can be those of pixels in [0, 1]."""
    if not all(value > 0 for value in std):
        raise InputError(f"std {tuple(std)} is not positive: give the standard deviation of each channel")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise InputError(f"{name} has {len(values)} values for {channels} channels: give one, or one per channel")
        if all(0 <= value <= 1 for value in values):
            continue
        levels = max(values) > 1 and all(0 <= value <= 255 for value in values)
        meant = ",".join(f"{value / 255:.4g}" for value in values)
        hint = f"in grey levels? divide by 255: {name} {meant}" if levels else f"give the {name} of each channel there"
        listed = ",".join(f"{value:.6g}" for value in values)
        raise InputError(f"{name} {listed} is none of pixels in [0, 1], which the model is given: {hint}")


def sees(model: nn.Module) -> str:
    """What the network inside a model takes, in a line: pixels, or pixels behind which normalisation."""
    inner = model
    while not isinstance(inner, Classifier) and isinstance(inside := getattr(inner, "model", None), nn.Module):
        members = getattr(inner, "members", ())  # of an ensemble
        if isinstance(members, list) and len(said := dict.fromkeys(map(sees, members))) > 1:
            return " and ".join(said)
        inner = inside  # of a wrapper
    if isinstance(inner, Classifier) and inner.normalised_inside:
        return "sees pixels in [0, 1], any normalisation is inside the file"
    if not (isinstance(inner, Classifier) and inner.normalises):
        return "sees pixels in [0, 1], no normalisation in front"
    mean, std = (
        ",".join(f"{value:.3g}" for value in values.flatten().tolist()[:4]) for values in (inner.mean, inner.std)
    )
    return f"sees (pixels - mean) / std: mean {mean}, std {std}"


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter, or else its first buffer, is; the CPU for a model without any.

    Raises InputError for a model that was built on the meta device and holds no weights.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_meta:
            raise InputError("the model is on the meta device, without weights: load them first, such as with to_empty")
        return tensor.device
    return torch.device("cpu")


def dtype_of(model: nn.Module) -> torch.dtype:
    """The precision of the model's parameters, or else of its buffers; float32 for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def input_size_of(model: nn.Module) -> Sequence[int] | None:
    """(C, H, W) where the model says it; other people's modules may mean something else by `input_size`."""
    size = getattr(model, "input_size", None)
    return size if isinstance(size, (tuple, list, torch.Size)) and len(size) == 3 else None


def check_images(images: Tensor, labels: Tensor | None = None, input_size: Sequence[int] | None = None) -> None:
    """Raises InputError unless images are float N,C,H,W in [0, 1] (of `input_size`) and labels are integers, one per image."""
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
    """Raises InputError unless logits are N,K with K >= 2 and every label is below K."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the model gives {shape}: it must give logits N,K of two classes or more")
    if labels is not None and labels.max().item() >= logits.shape[1]:
        raise InputError(
            f"label {labels.max().item()} is beyond the model's {logits.shape[1]} classes: is it a model for other data?"
        )


def _size(size: Sequence[int]) -> str:
    return "x".join(str(value) for value in size)
