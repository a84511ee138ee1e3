"""Labelled images in memory, as 8-bit pixels on the compute device, and batches of them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy
import torch
from torch import Tensor

from robustcls.core.errors import InputError, unknown
from robustcls.core.names import without_names


@dataclass(frozen=True, eq=False)
class Images:
    """The images of one split, all of the same size, on one device."""

    pixels: Tensor  # uint8 N,C,H,W
    labels: Tensor  # int64 N
    classes: tuple[str, ...]
    name: str
    flip: bool = True  # whether a mirrored image keeps its label
    note: str = ""  # remarks for the reader of results, such as skipped files
    index: Tensor = None  # type: ignore[assignment]  # int64 N: positions in the full split; filled in when not given
    files: tuple[str, ...] | None = None  # N names, relative to the data's folder; None for images not from files
    skipped: tuple[str, ...] = ()  # names of the files that could not be read
    available: int = 0  # number of samples in the full split; filled in when not given
    split_counts: tuple[int, ...] = ()  # number of samples per class in the full split; filled in when not given

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
        """Return the same images on another device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device), index=self.index.to(device))

    def take(self, indices: Tensor) -> "Images":
        """Return the samples at these positions, in this order."""
        indices = indices.to(self.labels.device)
        files = None if self.files is None else tuple(self.files[i] for i in indices.tolist())
        return replace(
            self, pixels=self.pixels[indices], labels=self.labels[indices], index=self.index[indices], files=files
        )

    def batch(self, indices: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return pixels as float32 N,C,H,W in [0, 1] and labels of the samples at these positions; of all by default."""
        return self.pixels[indices].float().div_(255), self.labels[indices]

    def ids_sha256(self) -> str:
        """Return the SHA-256, in hex, of the sorted file names, each as `class/file` and a line feed; "" without files.

        `LC_ALL=C sort LIST | sha256sum` gives the same for a list of such names.
        """
        if self.files is None:
            return ""
        names = sorted("/".join(name.split("/")[-2:]) for name in self.files)
        return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()

    def sha256(self) -> str:
        """Return the SHA-256, in hex, of the pixels' shape, the pixels and the labels; the same on every device."""
        return hash_pixels(self.pixels, self.labels)


def hash_pixels(pixels: Tensor, *others: Tensor) -> str:
    """Return the SHA-256, in hex, of the shape and values of uint8 pixels N,C,H,W and of the values of other tensors."""
    digest = hashlib.sha256(repr(tuple(pixels.shape)).encode())
    for tensor in (pixels, *others):
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def batches(
    images: Images,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    start: int = 0,
    channels_last: bool = False,
    rank: int = 0,
    size: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches, from batch number `start` on: x float32 N,C,H,W in [0, 1] and y int64 N.

    The order depends only on seed and epoch, on every device, so that a run can be resumed at any batch. Move the images to the
    device once (`Images.to`) rather than in every epoch.

    drop_last: leave out a short last batch, unless it is the only one. rank, size: yield the equal part of each batch that
    belongs to process `rank` of `size`.
    """
    order = torch.arange(len(images))
    if shuffle:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(images), generator=generator)
    order = order.to(images.pixels.device)
    for number in range(start, num_batches(images, batch_size, drop_last=drop_last)):
        chosen = order[number * batch_size : (number + 1) * batch_size]
        each = len(chosen) // size
        x, y = images.batch(chosen[rank * each : (rank + 1) * each] if size > 1 else chosen)
        yield (x.contiguous(memory_format=torch.channels_last) if channels_last else x), y


def num_batches(images: Images, batch_size: int, *, drop_last: bool = False) -> int:
    """Return the number of batches per epoch."""
    whole, rest = divmod(len(images), batch_size)
    return whole + (rest > 0 and not (drop_last and whole > 0))


def collect(images: Any, labels: Any = None) -> tuple[Tensor, Tensor]:
    """Return images and labels as tensors, from tensors or NumPy arrays, or from an iterable of batches or samples.

    Raises InputError for anything else.
    """
    if labels is not None:
        return as_tensor(images, "images"), as_tensor(labels, "labels")
    if isinstance(images, Tensor | numpy.ndarray):
        raise InputError("the images have no labels: give `labels`, or an iterable of (images, labels) for both")
    batches = []
    for number, batch in enumerate(images):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            kind = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise InputError(f"batch {number} of the data is {kind}: give an iterable of (images, labels)")
        x, y = as_tensor(batch[0], "images"), torch.as_tensor(batch[1])
        # A torch Dataset yields single samples, a DataLoader batches.
        batches.append((x[None], y[None]) if x.ndim == 3 and y.ndim == 0 else (x, y))
    if not batches:
        raise InputError("the data holds no batch: give an iterable of (images, labels) that is not used up")
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def as_tensor(values: Any, what: str) -> Tensor:
    """Return a tensor unchanged, and a NumPy array as a tensor on the CPU. Shape and values are not checked here.

    Raises InputError for anything else. what: `images` or `labels`, for the message.
    """
    if isinstance(values, Tensor):
        return values
    if isinstance(values, numpy.ndarray) and values.dtype.kind in "biuf":
        return torch.from_numpy(numpy.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
    kind = f"an array of {values.dtype}" if isinstance(values, numpy.ndarray) else type(values).__name__
    if what == "labels":
        raise InputError(f"labels are {kind}: give whole numbers, one per image, as a tensor or a NumPy array")
    raise InputError(
        f"images are {kind}: give one float tensor or NumPy array N,C,H,W in [0, 1], such as "
        "torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255 of uint8 images N,H,W,C"
    )


def count_labels(labels: Tensor, num_classes: int) -> tuple[int, ...]:
    """Return the number of samples per class. Samples without a label are not counted. labels: int64 N."""
    return tuple(labels[labels >= 0].bincount(minlength=num_classes).tolist())


def with_note(images: Images, text: str) -> Images:
    """Return the same images with `text` added to their note."""
    return replace(images, note="; ".join(filter(None, (images.note, text)))) if text else images


def without_files(images: Images) -> Images:
    """Return the same images without file names."""
    return replace(images, files=None, skipped=(), note=without_names(images.note))


def check_split(split: str) -> None:
    """Raise InputError unless split is train or test, the two splits that every data set has."""
    if split not in ("train", "test"):
        raise unknown("split of a data set", split, ("train", "test"))


def as_images(made: Any, name: str) -> Images:
    """Convert the result of a user's function to Images: Images, (images, labels) or (images, labels, classes).

    images: N,C,H,W, uint8 or floats in [0, 1], which are rounded to 8 bits. labels: integers N. Both are tensors or arrays.
    name: of the data, for messages. Raises InputError that says what is wrong with them.
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
    try:
        return values.detach() if isinstance(values, Tensor) else torch.from_numpy(numpy.array(values))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"data {name}: {what} are {type(values).__name__}: give a tensor or a NumPy array") from None


def _eight_bit(pixels: Tensor, name: str) -> tuple[Tensor, str]:
    low, high = (pixels.amin().item(), pixels.amax().item()) if pixels.numel() else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
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
