"""Pseudo-labels, and the file that `robustcls label` writes them to."""

import zipfile
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.data.images import Images, hash_pixels, with_note

SCHEMA = "robustcls/labels/1"
TEXTS = ("schema", "images_sha256", "model_sha256", "model", "data", "version")  # strings in the file


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """The class that a model predicts for each of N images, with its confidence.

    Attributes:
        labels: int64 N, class indices.
        confidence: float32 N, the probability of the predicted class.
        classes: the class names in order; numbers where the model has no class names.
        images_sha256: SHA-256 of the images' shape and 8-bit pixels, in order.
        model_sha256: SHA-256 of the model file, or of the weights where there was no file.
        model: the name of the model.
        data: the spec of the images.
        version: the version of robustcls.
    """

    labels: Tensor
    confidence: Tensor
    classes: tuple[str, ...]
    images_sha256: str
    model_sha256: str = ""
    model: str = ""
    data: str = ""
    version: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: str | Path) -> None:
        """Write an .npz file of numbers and text. Raises InputError where it cannot be written."""
        texts = {"schema": SCHEMA} | {name: getattr(self, name) for name in TEXTS if name != "schema"}
        arrays: dict[str, Any] = {name: numpy.array(text, dtype=numpy.str_) for name, text in texts.items()}
        arrays["classes"] = numpy.array(self.classes, dtype=numpy.str_)
        with atomic_write(path) as part, open(part, "wb") as file:
            numpy.savez_compressed(
                file,
                labels=self.labels.cpu().numpy().astype(numpy.int64),
                confidence=self.confidence.cpu().numpy().astype(numpy.float32),
                **arrays,
            )

    @classmethod
    def load(cls, path: str | Path) -> "PseudoLabels":
        """Read a file that `save` wrote, without pickle. Raises InputError for any other file."""
        if not Path(path).is_file():
            raise InputError(f"no file {path}: give a file of `robustcls label` as `pseudo_labels`")
        try:
            with open(path, "rb") as file, numpy.load(file, allow_pickle=False) as archive:
                arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
            raise _wrong(path, f"{type(error).__name__}") from None
        if str(arrays.get("schema", "")) != SCHEMA:
            raise _wrong(path, f"it lacks the schema {SCHEMA}")
        lacking = [name for name in ("labels", "confidence", "classes", *TEXTS) if name not in arrays]
        if lacking:
            raise _wrong(path, f"it lacks {lacking[0]}")
        labels, confidence, classes = (arrays[name] for name in ("labels", "confidence", "classes"))
        if labels.dtype != numpy.int64 or confidence.dtype != numpy.float32 or classes.dtype.kind != "U":
            raise _wrong(path, "its arrays have other types")
        if labels.ndim != 1 or labels.shape != confidence.shape or classes.ndim != 1 or not len(labels):
            raise _wrong(path, "its arrays have other shapes")
        if labels.min() < 0 or labels.max() >= len(classes):
            raise _wrong(path, f"its labels run from {labels.min()} to {labels.max()} with {len(classes)} classes")
        texts = {name: str(arrays[name]) for name in TEXTS if name != "schema"}
        names = tuple(map(str, classes.tolist()))
        return cls(torch.from_numpy(labels), torch.from_numpy(confidence), names, **texts)

    def give(self, images: Images) -> Images:
        """Return the images with these labels. Raises InputError where the labels belong to other images or classes."""
        if len(self) != len(images) or self.images_sha256 != hash_pixels(images.pixels):
            labelled = f"{len(self)} images of {self.data or 'other data'}"
            mismatch = f"not of the {len(images)} of {images.name}"
            if labelled == f"{len(images)} images of {images.name}":
                mismatch = "but those images were different (another `seed`, or the files changed)"
            raise InputError(
                f"the pseudo-labels are of {labelled}, {mismatch}: write them again with `robustcls label`"
            )
        note = f"labelled by {self.model or 'a model'}, mean confidence {self.confidence.mean().item():.0%}"
        if self.classes != images.classes:
            if self.classes != numbered(len(images.classes)):
                one, other = next(
                    pair for pair in zip_longest(self.classes, images.classes, fillvalue="none") if pair[0] != pair[1]
                )
                raise InputError(
                    f"the pseudo-labels have other classes, {one!r} where the training images have {other!r}: label "
                    "with a model of the same classes in the same order"
                )
            note += ", outputs without class names taken in the order of the classes"
        return with_note(replace(images, labels=self.labels.to(images.labels.device)), note)


def numbered(count: int) -> tuple[str, ...]:
    """Return the numbers from 0 as names, for classes without names."""
    return tuple(map(str, range(count)))


def _wrong(path: str | Path, why: str) -> InputError:
    return InputError(f"{path} holds no labels of `robustcls label` ({why}): write it again")
