"""Images that would not fit into memory as float32: stored in 8 bits until they are used, or on disk.

Code that uses only `images[rows]`, `len(images)`, `images.shape` and `images.split(size)` works with these classes as with a
tensor N,C,H,W.
"""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustcls.core.errors import InputError

LARGE = 1 << 29  # bytes as float32; larger sets of images stay in 8 bits
MAPPED = 1 << 30  # bytes as 8-bit pixels; sets of this size and larger are stored in a file
BLOCK = 16  # images that are copied at a time

ImageRows: TypeAlias = Any  # a tensor N,C,H,W, EightBit or Stored
Rows: TypeAlias = Any  # anything that a tensor can be indexed with: a tensor of integers or bool, a list, a slice


def as_floats(pixels: Tensor) -> ImageRows:
    """Return uint8 pixels N,C,H,W as float32 in [0, 1]; sets above LARGE are converted only when they are read."""
    return EightBit(pixels) if 4 * pixels.numel() > LARGE else pixels.float().div_(255)


def empty_pixels(shape: Sequence[int]) -> NDArray[numpy.uint8]:
    """Return an uninitialised uint8 array; from MAPPED bytes on in an unnamed temporary file. Raises InputError."""
    need, folder = math.prod(shape), tempfile.gettempdir()
    if need < MAPPED:
        return numpy.empty(shape, numpy.uint8)
    if need > (have := shutil.disk_usage(folder).free):
        raise InputError(
            f"{shape[0]} images of {shape[2]}x{shape[3]} need {need / 1e9:.1f} GB, {folder} has {have / 1e9:.1f} left: take "
            "fewer with `n`, make them smaller with folder:PATH(size=64), or name a folder with more room in TMPDIR"
        )
    return numpy.memmap(tempfile.TemporaryFile(), numpy.uint8, "w+", shape=tuple(shape))


def select(images: ImageRows, rows: Tensor) -> ImageRows:
    """Return the images at these rows, for EightBit images without copying their pixels."""
    return images.take(rows) if isinstance(images, EightBit) else images[rows]


class EightBit:
    """uint8 pixels N,C,H,W on the CPU that are read as float32 in [0, 1], a few at a time.

    Example:
        >>> EightBit(pixels)[:2]  # float32 2,C,H,W, those of pixels[:2].float() / 255
    """

    dtype, device, ndim = torch.float32, torch.device("cpu"), 4

    def __init__(self, pixels: Tensor, places: Tensor | None = None) -> None:
        """places: positions of these images among the pixels; None for all."""
        self.pixels, self.places = pixels, places
        self.shape = torch.Size((len(pixels) if places is None else len(places), *pixels.shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> Tensor:
        return self.pixels[rows if self.places is None else self.places[rows]].float().div_(255)

    def take(self, rows: Tensor) -> "EightBit":
        """Return the images at these rows without copying their pixels."""
        return EightBit(self.pixels, rows if self.places is None else self.places[rows])

    def split(self, size: int) -> Iterator[Tensor]:
        return (self[start : start + size] for start in range(0, len(self), size))


class Stored:
    """N float32 images: those that were written are stored in a file, the others are read from the original images.

    Example:
        >>> x_adv = Stored(x)
        >>> x_adv[rows] = found
        >>> x_adv[:2]
    """

    dtype, device, ndim = torch.float32, torch.device("cpu"), 4
    AS_BEFORE, FORGOTTEN = -1, -2

    def __init__(self, before: EightBit) -> None:
        self.before, self.shape = before, before.shape
        self.bytes = 4 * math.prod(self.shape[1:])
        self.file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is deleted with this object
        self.places = torch.full((len(before),), self.AS_BEFORE)  # position of each image in the file, or a flag
        self.free: list[int] = []
        self.end = 0

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Rows) -> Tensor:
        found, places = self.before[rows], self.places[rows]
        if (places == self.FORGOTTEN).any():
            raise RuntimeError("an adversarial image was requested that was not to be kept")
        for row in (places >= 0).nonzero().squeeze(1).tolist():
            into = found[row].numpy().data.cast("B")
            if os.preadv(self.file.fileno(), [into], int(places[row]) * self.bytes) != self.bytes:
                raise OSError("the file of adversarial images was cut off")
        return found

    def __setitem__(self, rows: Rows, images: Tensor) -> None:
        numbers = torch.arange(len(self))[rows]
        for row, image in zip(numbers.tolist(), images, strict=True):
            place = int(self.places[row])
            if place < 0:
                place = self.places[row] = self.free.pop() if self.free else self.end
                self.end = max(self.end, place + 1)
            content = image.detach().to("cpu", torch.float32).contiguous().numpy().data.cast("B")
            if os.pwrite(self.file.fileno(), content, place * self.bytes) != self.bytes:
                raise OSError(f"{tempfile.gettempdir()} is full: name a folder with more room in TMPDIR")

    def forget(self, rows: Tensor) -> None:
        """Drop the images at these rows (bool N), and reuse their places in the file."""
        gone = rows & (self.places >= 0)
        self.free += self.places[gone].tolist()
        self.places[rows] = self.FORGOTTEN

    @property
    def kept(self) -> Tensor:
        """Whether each image can be read: bool N."""
        return self.places != self.FORGOTTEN

    def split(self, size: int) -> Iterator[Tensor]:
        return (self[start : start + size] for start in range(0, len(self), size))

    def clone(self) -> "Stored":
        """Return an independent copy."""
        other = Stored(self.before)
        for rows in (self.places >= 0).nonzero().squeeze(1).split(BLOCK):
            other[rows] = self[rows]
        other.places[~self.kept] = self.FORGOTTEN
        return other
