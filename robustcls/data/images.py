"""Labelled images in memory, as 8-bit pixels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError, unknown
from robustcls.core.names import without_names


@dataclass(frozen=True, eq=False)
class Images:
    """The images of one split, all of one size, on one device."""

    pixels: Tensor  # uint8 N,C,H,W
    labels: Tensor  # int64 N
    classes: tuple[str, ...]
    name: str
    flip: bool = True  # may a mirrored image keep its label?
    note: str = ""  # what a reader must know, such as skipped files
    index: Tensor = None  # type: ignore[assignment]  # int64 N: positions in the full split; filled in when not given
    files: tuple[str, ...] | None = None  # N names, relative to the data's folder, of images that come from files
    skipped: tuple[str, ...] = ()  # the names of files that could not be read
    available: int = 0  # how many samples the split holds; filled in when not given
    split_counts: tuple[int, ...] = ()  # how many of each class the split holds; filled in when not given

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", torch.arange(len(self.labels), device=self.labels.device))
        if not self.available:
            object.__setattr__(self, "available", len(self.labels))
        if not self.split_counts:
            object.__setattr__(self, "split_counts", count_labels(self.labels, len(self.classes)))

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on another device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), index=self.index.to(device))

    def take(self, indices: Tensor) -> "Images":
        """The samples at these positions, in this order."""
        indices = indices.to(self.labels.device)
        files = None if self.files is None else tuple(self.files[i] for i in indices.tolist())
        return replace(
            self, pixels=self.pixels[indices], labels=self.labels[indices], index=self.index[indices], files=files
        )

    def batch(self, indices: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Pixels as float32 N,C,H,W in [0, 1] and labels of the samples at these positions; of all without an argument."""
        return self.pixels[indices].float().div_(255), self.labels[indices]

    def sha256(self) -> str:
        """The SHA-256, in hex, of the pixels' shape, the pixels and the labels: the same on every device."""
        digest = hashlib.sha256(repr(tuple(self.pixels.shape)).encode())
        for tensor in (self.pixels, self.labels):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def count_labels(labels: Tensor, num_classes: int) -> tuple[int, ...]:
    """How many samples each class has, by label. labels: int64 N."""
    return tuple(labels.bincount(minlength=num_classes).tolist())


def with_note(images: Images, text: str) -> Images:
    """The same images with one more thing that a reader must know."""
    return replace(images, note="; ".join(filter(None, (images.note, text)))) if text else images


def without_files(images: Images) -> Images:
    """The same images without the names of their files."""
    return replace(images, files=None, skipped=(), note=without_names(images.note))


def check_split(split: str) -> None:
    """Raises InputError unless split is train or test: the two that every data set has."""
    if split not in ("train", "test"):
        raise unknown("split of a data set", split, ("train", "test"))


def as_images(made: Any, name: str) -> Images:
    """What a user's own callable gave, as Images: Images, (images, labels) or (images, labels, classes).

    images: uint8, or floats in [0, 1], N,C,H,W; labels: whole numbers N; both tensors or arrays. Floats are rounded to
    8 bits. Raises InputError that says what is wrong with them.
    """
    if isinstance(made, Images):
        _check(made.pixels, made.labels, made.classes, name)
        if made.files is not None and len(made.files) != len(made):
            raise InputError(f"data {name}: {len(made.files)} file names for {len(made)} images: give one per image")
        return made
    if not isinstance(made, (tuple, list)) or len(made) not in (2, 3):
        raise InputError(
            f"data {name} gave {type(made).__name__}: return Images, (images, labels) or (images, labels, classes)"
        )
    pixels, labels = _tensor(made[0], "images", name), _tensor(made[1], "labels", name)
    pixels, note = _eight_bit(pixels, name) if pixels.is_floating_point() else (pixels, "")
    if not labels.is_floating_point() and labels.dtype is not torch.bool:
        labels = labels.long()
    top = int(labels.max()) if labels.numel() and labels.dtype is torch.int64 else 0
    classes = tuple(map(str, made[2])) if len(made) == 3 else tuple(map(str, range(top + 1)))
    _check(pixels, labels, classes, name)
    return Images(pixels.contiguous(), labels, classes, name, note=note)


def _tensor(values: Any, what: str, name: str) -> Tensor:
    import numpy

    try:
        return values.detach() if isinstance(values, Tensor) else torch.from_numpy(numpy.array(values))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"data {name}: {what} are {type(values).__name__}: give a tensor or a NumPy array") from None


def _eight_bit(pixels: Tensor, name: str) -> tuple[Tensor, str]:
    low, high = (pixels.amin().item(), pixels.amax().item()) if pixels.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # written so that NaN fails it too
        raise InputError(f"data {name}: float images lie in [{low:.3g}, {high:.3g}]: give [0, 1], or uint8 in 0..255")
    rounded = (pixels * 255).round()
    coarse = pixels.numel() > 0 and (pixels * 255 - rounded).abs().amax().item() > 1e-2
    return rounded.to(torch.uint8), "float pixels rounded to 8 bits" if coarse else ""


def _check(pixels: Tensor, labels: Tensor, classes: Sequence[str], name: str) -> None:
    shape = tuple(pixels.shape)
    if pixels.ndim != 4 or 0 in shape:
        raise InputError(f"data {name}: images have shape {shape}: give a non-empty N,C,H,W")
    if shape[1] not in (1, 3) and shape[3] in (1, 3):
        raise InputError(f"data {name}: images have shape {shape}, which looks like N,H,W,C: give N,C,H,W")
    if pixels.dtype is not torch.uint8:
        raise InputError(f"data {name}: images are {pixels.dtype}: give uint8 in 0..255, or floats in [0, 1]")
    if labels.dtype is not torch.int64 or labels.shape != shape[:1]:
        raise InputError(
            f"data {name}: labels of shape {tuple(labels.shape)} and {labels.dtype} for {shape[0]} images: "
            "give one whole number per image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise InputError(f"data {name}: labels run from {low} to {high} with {len(classes)} classes: count from 0")
    if len(classes) < 2:
        raise InputError(f"data {name} has {len(classes)} class: a classifier needs two or more")
