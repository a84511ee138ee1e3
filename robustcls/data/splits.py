"""Loads the splits of a data set: finds the data set of a spec, holds out validation images, chooses n samples."""

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustcls.core import plugins
from robustcls.core.errors import InputError, as_input_error, unknown
from robustcls.core.subset import first_proportional, stratified_order
from robustcls.data.duplicates import count_copies
from robustcls.data.images import Images, as_images, count_labels, with_note
from robustcls.data.spec import parse_data

SAMPLING_RULE = "the first samples of each class in file order, as many as the class's share of the split"
VAL_SHARE, VAL_MAX = 0.1, 2000  # fraction of the train split that is held out for validation, and its largest size


def load_split(
    spec: str,
    split: str,
    *,
    seed: int = 0,
    data_dir: str | None = None,
    skip_corrupt: bool = False,
    limit_train: int | None = None,
    n: int | None = None,
    whole: bool = False,
) -> Images:
    """Load the images of one split, or n of them by SAMPLING_RULE, as `choose` does. Raises InputError.

    The val split is the data set's own where it has one beside test, or beside train for a model that was not trained on the
    data. Otherwise it is held out of train, stratified, by seed, and train is the rest. The test split is the data set's own.
    From a folder, only the chosen images are decoded.

    Args:
        spec: `digits`, `cifar10`, `folder:PATH`, `folder:PATH(size=64)`, `module:callable`.
        split: train, val or test.
        seed: of the division into train and val.
        data_dir: the folder of downloaded data sets.
        skip_corrupt: skip images of a folder that cannot be read.
        limit_train: as in `load_training_data`.
        n: number of samples; None for all.
        whole: for a model that was not trained on the data: a folder that has only class folders is read as one test split.
    """
    if split not in ("train", "val", "test"):
        raise unknown("split", split, ("train", "val", "test"))
    _check_count("n", n, "all")
    source = _Source(spec, data_dir, skip_corrupt, whole)
    if split == "test" or (split == "val" and source.has_val()):
        return source.load(split, _Pick(_all, n))
    divide = _division(spec, seed, limit_train, own_val=source.has_val())
    images = source.load("train", _Pick(lambda labels: divide(labels)[split == "val"], n))
    return with_note(images, source.other_val()) if split == "val" else images


def load_training_data(
    spec: str,
    *,
    seed: int = 0,
    data_dir: str | None = None,
    skip_corrupt: bool = False,
    limit_train: int | None = None,
) -> tuple[Images, Images]:
    """Load disjoint train and val images. Raises InputError where there are too few samples.

    val is the data set's own validation split, if it has one. Otherwise it is held out of train: the fraction VAL_SHARE, at
    most VAL_MAX samples, but at least as many samples as there are classes. limit_train: size of a stratified random subset of
    the remaining train images, by seed, so that val is the same for every limit.
    """
    source = _Source(spec, data_dir, skip_corrupt)
    divide = _division(spec, seed, limit_train, own_val=source.has_val())
    pick = _Pick(lambda labels: torch.cat(divide(labels)[:2]).sort().values)
    both = source.load("train", pick)
    if source.has_val():
        return both, source.load("val", _Pick(_all))
    train, val = _parts(both, [torch.searchsorted(pick.positions, part) for part in divide(pick.labels)[:2]])
    copies = count_copies(val.pixels, train.pixels) if both.files is not None else 0
    said = f"{copies} of {len(val)} images held out for validation are duplicates of training images" if copies else ""
    note = "; ".join(filter(None, (source.other_val(), said)))
    return with_note(train, note), with_note(val, note)


def load_left_out(
    spec: str, *, seed: int = 0, data_dir: str | None = None, skip_corrupt: bool = False, limit_train: int | None = None
) -> Images:
    """Load the images that `limit_train` leaves out, which are in neither set of `load_training_data`; there may be none."""
    source = _Source(spec, data_dir, skip_corrupt)
    divide = _division(spec, seed, limit_train, own_val=source.has_val())
    return source.load("train", _Pick(lambda labels: divide(labels)[2]))


def load_all(
    spec: str, *, data_dir: str | None = None, skip_corrupt: bool = False, limit: int | None = None, seed: int = 0
) -> Images:
    """Load the whole train split of a data set; nothing is held out. Raises InputError.

    limit: number of images, a stratified random subset by seed.
    """
    part = _all if limit is None else lambda labels: stratified_order(labels, seed)[:limit].sort().values
    return read_split(spec, "train", data_dir=data_dir, skip_corrupt=skip_corrupt, pick=part)


def hold_out(images: Images, *, seed: int = 0, limit_train: int | None = None) -> tuple[Images, Images]:
    """Divide images in memory into train and val images, as `load_training_data` does."""
    return _parts(images, _division(images.name, seed, limit_train)(images.labels)[:2])


def left_out(images: Images, *, seed: int = 0, limit_train: int | None = None) -> Images:
    """Return the images that are in neither set of `hold_out`; there may be none."""
    return images.take(_division(images.name, seed, limit_train)(images.labels)[2])


def choose(images: Images, n: int | None) -> Images:
    """Return the first n samples by SAMPLING_RULE, in file order; all samples where n is None or not smaller than their number.

    A smaller choice is a subset of a larger one. Raises InputError for n below 1.
    """
    _check_count("n", n, "all")
    if n is None or n >= len(images):
        return images
    return images.take(first_proportional(images.labels, n))


def _check_count(name: str, count: int | None, all_of_them: str) -> None:
    if count is not None and count < 1:
        raise InputError(f"{name} {count} is not a number of samples: give 1 or more, or {all_of_them}")


def _all(labels: Tensor) -> Tensor:
    return torch.arange(len(labels))


def _parts(images: Images, parts: Sequence[Tensor]) -> tuple[Images, Images]:
    """Return the images at the positions of train and of val, each as a separate split."""
    train, val = (replace(images.take(rows), available=len(rows), split_counts=()) for rows in parts)
    return train, val


def _division(
    spec: str, seed: int, limit_train: int | None, *, own_val: bool = False
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Return a function that divides the labels of a train split into sorted positions of train, val and left-out samples.

    own_val: the data set has its own validation split, so that val is empty. Left out are the samples beyond limit_train.
    """
    _check_count("limit_train", limit_train, "leave it out")

    def divide(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        num_classes = len(labels.unique())
        num_val = 0 if own_val else max(min(round(VAL_SHARE * len(labels)), VAL_MAX), num_classes)
        order = stratified_order(labels, seed)
        val, rest = order[:num_val], order[num_val:]
        if len(labels[rest].unique()) < num_classes:
            raise InputError(
                f"data {spec}: {len(labels)} train samples in {num_classes} classes are too few to hold out {num_val} "
                "for validation: give each class 2 images or more"
            )
        # Every prefix of the order is stratified, so a smaller limit gives a subset of a larger one.
        limit = len(rest) if limit_train is None else limit_train
        return rest[:limit].sort().values, val.sort().values, rest[limit:].sort().values

    return divide


class _Pick:
    """A function from the labels N of a split to the sorted positions of the wanted samples. It also counts the samples."""

    def __init__(self, part: Callable[[Tensor], Tensor], n: int | None = None):
        self.part, self.n, self.available = part, n, 0

    def __call__(self, labels: Tensor) -> Tensor:
        self.labels = labels.cpu()
        self.positions = self.part(self.labels)
        self.available = len(self.positions)
        self.counts = count_labels(self.labels[self.positions], 0)
        if self.n is not None and self.n < self.available:
            self.positions = self.positions[first_proportional(self.labels[self.positions], self.n)]
        return self.positions


class _Source:
    """A data spec and the options for reading it, as in `load_split`."""

    def __init__(self, spec: str, data_dir: str | None = None, skip_corrupt: bool = False, whole: bool = False):
        self.spec, self.data_dir, self.skip_corrupt, self.whole = spec, data_dir, skip_corrupt, whole
        self.parsed = parse_data(spec)
        self.function: Any = plugins.load("data", self.parsed)
        self.is_ours = ":" not in self.parsed.name

    def has_val(self, whole: bool = False) -> bool:
        """Whether there is a separate validation split, as the function `has_val` in the data set's file says."""
        return self._ask("has_val", whole or self.whole) or False

    def has_test(self) -> bool:
        """Whether there is a test split, as the function `has_test` says; True for data sets without that function."""
        return self._ask("has_test", self.whole) is not False

    def _ask(self, question: str, whole: bool) -> bool | None:
        ask = getattr(sys.modules[self.function.func.__module__], question, None) if self.is_ours else None
        options = {**dict(self.parsed.options), "whole": whole}
        return ask(*self.parsed.args, **options) if ask and self.parsed.args else None

    def other_val(self) -> str:
        """Return a note where a folder's own val split is used as test, so that validation is held out of train; else ""."""
        if self.has_val() or not self.has_val(whole=True):
            return ""
        return "the folder's own val stands for test: validation is held out of train, as in training"

    def load(self, split: str, pick: _Pick) -> Images:
        """Load the picked images of a split. Raises InputError."""
        given: dict[str, Any] = {"data_dir": self.data_dir, "skip_corrupt": self.skip_corrupt or None}
        if self.is_ours:  # a user's function may use these keywords for something else
            # Validation images are drawn from the readable ones, so with skip_corrupt all of train must be read.
            given["pick"] = None if split == "train" and self.skip_corrupt else pick
            given["whole"] = True if self.whole and "whole" not in dict(self.parsed.options) else None
        takes = inspect.signature(self.function)
        options = {name: value for name, value in given.items() if value is not None and name in takes.parameters}
        try:
            takes.bind(split, **options)
        except TypeError as error:
            is_folder = self.parsed.name == "folder"
            hint = "write it as folder:PATH" if is_folder else "it is called with the split's name alone"
            raise InputError(f"data {self.spec} cannot be called: {error}: {hint}") from None
        if self.is_ours:
            images = self.function(split, **options)
        else:
            with as_input_error(f"data {self.spec} failed for split {split!r}"):
                images = self.function(split, **options)
            images = as_images(images, self.spec)
        if "pick" not in options:
            positions = pick(images.labels)
            images = images if len(positions) == len(images) else images.take(positions)
        counts = pick.counts + (0,) * (len(images.classes) - len(pick.counts))
        return replace(images, available=pick.available, split_counts=counts)


def read_split(
    spec: str,
    split: str,
    *,
    data_dir: str | None = None,
    skip_corrupt: bool = False,
    whole: bool = False,
    pick: Callable[[Tensor], Tensor] | None = None,
) -> Images:
    """Read a split as stored, for a data set that is derived from this one; nothing is held out. Raises InputError.

    pick: a function from labels N to the sorted positions of the wanted samples.
    """
    return _Source(spec, data_dir, skip_corrupt, whole).load(split, _Pick(pick or _all))


def has_val(spec: str, *, whole: bool = False) -> bool:
    """Whether the data set has a separate validation split. Raises InputError."""
    return _Source(spec).has_val(whole)


def has_test(spec: str) -> bool:
    """Whether the data set has a test split; a folder that has only train/ has none. Raises InputError."""
    return _Source(spec).has_test()
