"""A spec and a split's name to images: what is held out for validation, and which samples are chosen."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustcls.core import plugins
from robustcls.core.errors import InputError, unknown
from robustcls.data.images import Images, as_images
from robustcls.data.stratify import first_proportional, stratified_order

SAMPLING_RULE = "the first samples of each class in file order, as many as the class's share of the split"


def load_split(
    spec: str,
    split: str,
    *,
    seed: int = 0,
    data_dir: str | None = None,
    skip_corrupt: bool = False,
    limit_train: int | None = None,
    val_share: float = 0.1,
    val_max: int = 2000,
) -> Images:
    """The images of one split. val is held out of the data set's train split, stratified, by seed; train is the rest.

    spec: `digits`, `cifar10`, `folder:PATH`, `folder:PATH(size=64)`, `module:callable`. limit_train: as
    `load_training_data` takes it. The test split is the data set's own, whole. Raises InputError.
    """
    if split not in ("train", "val", "test"):
        raise unknown("split", split, ("train", "val", "test"))
    if split == "test":
        return _load(spec, "test", data_dir, skip_corrupt)
    train, val = load_training_data(
        spec,
        seed=seed,
        data_dir=data_dir,
        skip_corrupt=skip_corrupt,
        limit_train=limit_train,
        val_share=val_share,
        val_max=val_max,
    )
    return train if split == "train" else val


def load_training_data(
    spec: str,
    *,
    seed: int = 0,
    data_dir: str | None = None,
    skip_corrupt: bool = False,
    limit_train: int | None = None,
    val_share: float = 0.1,
    val_max: int = 2000,
) -> tuple[Images, Images]:
    """The train and val images, disjoint, of one reading of the data set's train split.

    val is val_share of it, at least one sample a class and at most val_max (or the number of classes). limit_train: a
    stratified random subset of what is left, by seed, so that val is the same for every limit. Raises InputError where
    there are too few samples.
    """
    if limit_train is not None and limit_train < 1:
        raise InputError(f"limit_train {limit_train} is not a number of samples: give 1 or more, or leave it out")
    full = _load(spec, "train", data_dir, skip_corrupt)
    num_classes = len(full.labels.unique())
    num_val = max(min(round(val_share * len(full)), val_max), num_classes)
    order = stratified_order(full.labels, seed)
    held, rest = order[:num_val], order[num_val:]
    if len(full.labels.cpu()[rest].unique()) < num_classes:
        raise InputError(
            f"data {spec}: {len(full)} train samples in {num_classes} classes are too few to hold out {num_val} for "
            "validation: give each class 2 images or more"
        )
    # `rest` is ordered so that any beginning of it is stratified: a smaller limit is a subset of a larger one.
    return full.take(rest[:limit_train].sort().values), full.take(held.sort().values)


def choose(images: Images, n: int | None) -> Images:
    """The first n samples by SAMPLING_RULE, in file order; all where n is None or there are no more than n.

    A smaller choice is part of a larger one. Raises InputError for n below 1.
    """
    if n is not None and n < 1:
        raise InputError(f"n {n} is not a number of samples: give 1 or more, or all")
    if n is None or n >= len(images):
        return images
    return images.take(first_proportional(images.labels, n))


def _load(spec: str, split: str, data_dir: str | None, skip_corrupt: bool) -> Images:
    parsed = _parsed(spec)
    function = plugins.load("data", parsed)
    takes = inspect.signature(function).parameters
    given = {"data_dir": data_dir, "skip_corrupt": skip_corrupt or None}
    options = {name: value for name, value in given.items() if value is not None and name in takes}
    _check_call(function, spec, parsed.name, split, options)
    if ":" not in parsed.name:
        return function(split, **options)
    try:
        made = function(split, **options)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"data {spec} failed for split {split!r}: {reason}") from error
    return as_images(made, spec)


def _parsed(spec: str) -> plugins.Spec:
    """As plugins.parse, and with options behind a path: `folder:PATH(size=64)`, unless such a file exists."""
    parsed = plugins.parse("data", spec)
    if not parsed.args or not parsed.args[0].endswith(")") or Path(parsed.args[0]).exists():
        return parsed
    path, _, options = parsed.args[0].rpartition("(")
    return plugins.Spec(parsed.name, (path,), plugins.parse("data", f"{parsed.name}({options}").options)


def _check_call(function: Callable[..., Any], spec: str, name: str, split: str, options: dict[str, Any]) -> None:
    try:
        inspect.signature(function).bind(split, **options)
    except TypeError as error:
        hint = "write it as folder:PATH" if name == "folder" else "it is called with the split's name alone"
        raise InputError(f"data {spec} cannot be called: {error}: {hint}") from None
