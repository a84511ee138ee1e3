"""Accuracy under common corruptions (Hendrycks and Dietterich 2019, arXiv:1903.12261)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.progress import follow
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.corruptions._severity import LARGE, SEVERITIES, is_large
from robustcls.evaluation.measures.corruptions.record import Corruption, Corruptions
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Accuracy, ClassMap, Evaluation
from robustcls.runtime.predict import predict

if TYPE_CHECKING:
    from robustcls.evaluation.pace import Pace

CHUNK = 128  # images corrupted at once; fixed, so that random draws do not depend on the batch size


def measure(
    subject: Subject,
    evaluation: Evaluation,
    *,
    n: int,
    batch_size: int,
    seed: int,
    corruptions_from: str | Path | None = None,
    progress: bool = False,
) -> Corruptions:
    """Accuracy under every corruption at every severity, on at most n samples, evenly spaced.

    The images are made here from the evaluated samples and rounded to 8 bits; or, with `corruptions_from`, read from a folder
    of files like those of CIFAR-10-C, whose own labels count. The model is left as it was. progress: shown on stderr.
    Raises InputError for images that corruptions are not defined for, and for files that do not fit.
    """
    files = _published(subject, corruptions_from)
    model, total = subject.model, len(subject.y)
    at = spaced(subject.y, n)
    x, y = subject.x[at], subject.y[at]
    names = plugins.names("corruption")
    with frozen(model):
        clean = predict(model, x, batch_size)
        if files:
            files.check(tuple(x.shape[1:]), clean.shape[1])
        results = []
        for name in follow(names, "corruptions", "corruption", show=progress):
            for severity in SEVERITIES:
                parts = files.take(name, severity, n) if files else corrupt(x, y, name, severity, seed)
                right = torch.cat(
                    [predict_labels(predict(model, images, batch_size)) == labels for images, labels in parts]
                )
                results.append(Corruption(name, severity, _accuracy(right)))
    if files:
        rule = (
            f"{results[0].accuracy.total} of the {files.each} published images of every corruption and severity, evenly "
            f"spaced; clean: {len(at)} of the {total} evaluated samples, evenly spaced, which need not be the same pictures"
        )
        source = f"published files in {files.folder.resolve().name}"
        note = "class k of the files is taken for class k of the data"
    else:
        rule = f"{len(at)} of {total} evaluated samples, evenly spaced over the classes"
        rule += "; every corrupted image rounded to 8 bits"
        source = "made here by the published definitions (Hendrycks and Dietterich 2019)"
        note = _differences(x)
    mean = sum(result.accuracy.accuracy for result in results) / len(results)
    return Corruptions(
        rule, source, results[0].accuracy.total, _accuracy(predict_labels(clean) == y), results, mean, note
    )


def check(subject: Subject, *, corruptions_from: str | None = None) -> None:
    """Raise InputError if the published files do not fit this model and its data."""
    if files := _published(subject, corruptions_from):
        files.check_model(subject.model, subject.x[:1])


def available(subject: Subject, evaluation: Evaluation, *, corruptions_n: int, corruptions_from: str | None) -> int:
    return corruptions_n if corruptions_from else len(subject.y)


def seconds(pace: "Pace") -> float:
    return pace.more.get("corruptions", 0.0) + len(SEVERITIES) * len(plugins.names("corruption")) * pace.forward


def time_more(x: Tensor, timed: Callable[..., float]) -> float:
    """Return the seconds needed to make all corrupted versions of an image. x: 1,C,H,W on the CPU."""
    middle = SEVERITIES[len(SEVERITIES) // 2]
    generator = torch.Generator().manual_seed(0)
    functions = [plugins.load("corruption", name) for name in plugins.names("corruption")]
    return len(SEVERITIES) * sum(timed(partial(one, x, middle, generator=generator)) for one in functions)


def corrupt(x: Tensor, y: Tensor, name: str, severity: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of corrupted images N,C,H,W in [0, 1], rounded to 8 bits, with their labels.

    What is drawn depends on seed, name and severity alone.
    """
    function = plugins.load("corruption", name)
    generator = torch.Generator().manual_seed(mix(seed, severity, *name.encode()))
    for images, labels in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        yield (function(images, severity, generator=generator) * 255).round() / 255, labels


@dataclass
class Published:
    """Files like those of CIFAR-10-C: uint8 images 5 M,H,W,3 for each corruption, M a severity, from 1 to 5."""

    folder: Path
    images: dict[str, np.ndarray]  # by corruption; memory-mapped, so read only when used
    labels: np.ndarray  # 5 M
    outputs: Sequence[int] | None = None  # of the model, for each class; None where the numbers are the same

    @property
    def each(self) -> int:
        return len(self.labels) // len(SEVERITIES)

    def numbered_as(self, mapped: ClassMap | None) -> "Published":
        """Return these files for a model whose outputs the classes of the data were mapped to."""
        return replace(self, outputs=mapped.outputs if mapped else None)

    def take(self, name: str, severity: int, n: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of at most n images of a severity, evenly spaced, as float N,3,H,W in [0, 1], with their labels."""
        first = (severity - 1) * self.each
        labels = torch.from_numpy(self.labels[first : first + self.each].astype(np.int64))
        for rows in (spaced(labels, n) + first).split(CHUNK):
            images = torch.from_numpy(self.images[name][rows.numpy()]).permute(0, 3, 1, 2).float() / 255
            own = torch.from_numpy(self.labels[rows.numpy()].astype(np.int64))
            yield images.contiguous(), own if self.outputs is None else torch.tensor(self.outputs)[own]

    def check_model(self, model: nn.Module, images: Tensor) -> None:
        """As `check`, for a model and N,C,H,W of the images that it is evaluated on."""
        with frozen(model):
            self.check(tuple(images.shape[1:]), predict(model, images, 1).shape[1])

    def check(self, size: tuple[int, ...], num_classes: int) -> None:
        """Raises InputError unless the files hold images of C,H,W = size, and labels of so many classes."""
        h, w = next(iter(self.images.values())).shape[1:3]
        if (3, h, w) != size:
            raise InputError(
                f"{self.folder}: images of 3x{h}x{w}, but the model was evaluated on {'x'.join(map(str, size))}: "
                "name files made of the same data set"
            )
        classes = int(self.labels.max()) + 1
        expected = num_classes if self.outputs is None else len(self.outputs)
        if classes != expected:
            raise InputError(
                f"{self.folder}: labels of {classes} classes, but the model has {expected}: "
                "name files made of the same data set"
            )


def _published(subject: Subject, folder: str | Path | None) -> "Published | None":
    return read_published(Path(folder)).numbered_as(subject.data_record.class_map) if folder else None


def read_published(folder: Path) -> Published:
    """The files of all corruptions and labels.npy. Raises InputError for one that is missing or has another shape."""
    labels = _load(folder / "labels.npy")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or len(labels) % len(SEVERITIES):
        raise InputError(
            f"{folder / 'labels.npy'}: {labels.dtype} of shape {labels.shape}: expected whole numbers, as many for each of "
            "5 severities; download the file again"
        )
    if labels.min() < 0:
        raise InputError(f"{folder / 'labels.npy'}: label {labels.min()} is negative: download the file again")
    images = {name: _load(folder / f"{name}.npy") for name in plugins.names("corruption")}
    size = next(iter(images.values())).shape[1:3]
    for name, array in images.items():
        if array.dtype != np.uint8 or array.shape != (len(labels), *size, 3):
            raise InputError(
                f"{folder / name}.npy: {array.dtype} of shape {array.shape}: expected uint8 images of {len(labels)},H,W,3, "
                "all of one size; download the file again"
            )
    return Published(folder, images, labels)


def _load(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{file} is missing: name the unpacked folder of CIFAR-10-C") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{file} is no array of numpy ({str(error).splitlines()[0]}): download it again") from None


def _accuracy(right: Tensor) -> Accuracy:
    return Accuracy.of(int(right.sum()), len(right))


def _differences(x: Tensor) -> str:
    strengths = f"ImageNet-C (images from {LARGE} pixels on)" if is_large(x) else "CIFAR-10-C (images of 32 pixels)"
    return (
        f"severities as in {strengths}; frost uses generated textures, not the published photographs; motion blur and snow "
        "reimplement the operation of ImageMagick; glass blur and snow are not converted to 8 bits between their steps. "
        "Compare the numbers with each other, not with numbers measured on the published files"
    )
