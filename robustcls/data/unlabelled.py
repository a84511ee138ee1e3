"""Images without labels, for training together with labelled ones, or for labelling by a model."""

import os
import unicodedata
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from robustcls.core.errors import InputError
from robustcls.core.losses import UNLABELLED
from robustcls.core.names import quoted, readable
from robustcls.core.options import REST
from robustcls.data.duplicates import are_copies, count_copies
from robustcls.data.folders.decode import describe
from robustcls.data.folders.form import check_form, choose_form
from robustcls.data.folders.layout import Files
from robustcls.data.folders.walk import WANTED, how_to_read, walk
from robustcls.data.images import Images, as_images, with_note
from robustcls.data.sets.folder import read_files
from robustcls.data.spec import DECODING, decoded_alike, parse_data
from robustcls.data.splits import load_all, load_left_out


def load_unlabelled(
    spec: str,
    *,
    data: str,
    classes: Sequence[str],
    size: Sequence[int] | None,
    seed: int = 0,
    limit_train: int | None = None,
    data_dir: str | None = None,
    skip_corrupt: bool = False,
) -> Images:
    """Load images whose labels are all UNLABELLED. Raises InputError where they do not fit the labelled images.

    Args:
        spec: `folder:DIR`, for all images below a folder; another data set, whose train split is used without its labels; or
            `rest`, for the training images that limit_train leaves out.
        data: the spec of the labelled images, or ""; a folder of unlabelled images is decoded in the same way.
        classes: of the labelled images.
        size: C, H and W of the labelled images; None for any.
        seed, limit_train: with which the labelled images were chosen.
        data_dir: the folder of downloaded data sets.
        skip_corrupt: skip images of a folder that cannot be read.
    """
    if spec == REST:
        if limit_train is None:
            raise InputError(
                '`unlabelled="rest"` is what `limit_train` leaves out of the training images: give `limit_train` as well'
            )
        images = load_left_out(
            data, seed=seed, data_dir=data_dir, skip_corrupt=skip_corrupt, limit_train=limit_train
        )  # fmt: skip
        if not len(images):
            raise InputError(f"`limit_train={limit_train}` leaves out no image of {data}: give a smaller one")
        images = replace(images, name=f"{REST} of {data}", note="")
    elif parse_data(spec).name == "folder":
        images = _loose(decoded_alike(spec, data)[0] if data else spec, classes, skip_corrupt)
    else:
        images = load_all(spec, data_dir=data_dir, skip_corrupt=skip_corrupt)
        images = with_note(images, f"the labels of {spec} are not read")
    return without_labels(images, classes, size)


def has_unlabelled(data: Any) -> bool:
    """Whether (images, labels) or (images, labels, classes) contain a label that is UNLABELLED."""
    if isinstance(data, tuple) and len(data) in (2, 3):
        # Values that are not labels at all are reported by the function that reads them.
        with suppress(TypeError, ValueError, RuntimeError):
            return bool((torch.as_tensor(data[1]) == UNLABELLED).any())
    return False


def divide_labelled(data: Any, name: str) -> tuple[Images, Images]:
    """Divide (images, labels[, classes]) into labelled and unlabelled images. Raises InputError, also as `as_images` does."""
    labels = torch.as_tensor(data[1])
    known = labels != UNLABELLED
    if not known.any():
        raise InputError(f"data {name}: no image has a label: give a few, at least two of each class")
    whole = as_images((data[0], labels.where(known, labels[known].min()), *data[2:]), name)
    labelled, others = (whole.take(rows.nonzero().squeeze(1)) for rows in (known, ~known))
    return labelled, without_labels(others, whole.classes, None)


def without_labels(images: Images, classes: Sequence[str], size: Sequence[int] | None) -> Images:
    """Return the same images with all labels set to UNLABELLED. Raises InputError where they do not have the size C, H, W."""
    if size and tuple(images.pixels.shape[1:]) != tuple(size):
        own, needed = ("x".join(map(str, sizes)) for sizes in (images.pixels.shape[1:], size))
        folder = images.name.startswith("folder:") and size[1] == size[2] and images.pixels.shape[1] == size[0]
        how = f"write {images.name.partition('(')[0]}(size={size[1]})" if folder else "convert them first"
        raise InputError(f"the unlabelled images of {images.name} are {own}, the labelled ones {needed}: {how}")
    labels = torch.full_like(images.labels, UNLABELLED)
    return replace(images, labels=labels, classes=tuple(classes), split_counts=())


def without_copies(images: Images, train: Images, val: Images, test: Images | None = None) -> Images:
    """Return the unlabelled images without those that also occur in train, val or test, pixel for pixel.

    Raises InputError where none is left.
    """
    others = [one.pixels for one in (train, val, test) if one is not None]
    copies = are_copies(images.pixels, *others)
    count = int(copies.sum())
    if count == len(images):
        raise InputError(
            f"every unlabelled image of {images.name} is among the labelled ones: give `limit_train`, or other images"
        )
    if not count:
        return images
    kept = images.take((~copies).nonzero().squeeze(1))
    tests = count_copies(images.pixels, test.pixels) if test is not None else 0
    also_tested = f", {tests} of them among the test images" if tests else ""
    return with_note(
        kept, f"{count} of {len(images)} are left out because they are among the labelled images{also_tested}"
    )


def _loose(spec: str, classes: Sequence[str], skip_corrupt: bool) -> Images:
    """Read all images below a folder. Raises InputError where a folder inside it has the name of a class."""
    parsed = parse_data(spec)
    options: Mapping[str, Any] = dict(parsed.options)
    if unknown := sorted(options.keys() - set(DECODING)):
        raise InputError(
            f"{spec}: {unknown[0]} is about classes and splits, which unlabelled images lack: leave it out"
        )
    root = Path(parsed.args[0] if parsed.args else "").expanduser()
    if not parsed.args or not root.is_dir():
        raise InputError(
            f"folder {root}: {'is a file' if root.is_file() else 'there is no such folder'}: name a folder"
        )
    found = walk(root)
    paths = sorted(found.images)
    if not paths:
        raise InputError(f"folder {root}: no images below it: put {WANTED} into it{how_to_read(found.passed)}")
    names = [readable(path.removeprefix(f"{root}/")) for path in paths]
    known = {unicodedata.normalize("NFC", name).casefold() for name in classes}
    for name in names:
        its = [part for part in name.split("/")[:-1] if unicodedata.normalize("NFC", part).casefold() in known]
        if its:
            raise InputError(
                f"folder {root}: {quoted(name)} lies in a folder named like the class {its[0]!r}, which is a label: "
                "train on it with `data`, or rename the folder"
            )
    form_options = {name: options.get(name) for name in ("size", "resize")}
    check_form(form_options["size"], form_options["resize"], options.get("filter", "bilinear"))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        form = choose_form(paths, options.get("size"), options.get("grey", False), options.get("scale"), pool)
        form = form._replace(resize=options.get("resize"), filter=options.get("filter", "bilinear"))
        decoded, _ = read_files(Files(paths, [0] * len(paths)), form, None, skip_corrupt, pool)
    if not decoded.positions:
        raise InputError(f"folder {root}: all {len(paths)} images are corrupt: replace the files")
    notes = [form.note, *describe(decoded, names, options.get("scale"))]
    if len(decoded.positions) < len(paths):
        left = len(paths) - len(decoded.positions)
        notes.append(f"{left} corrupt file{'s' if left > 1 else ''} skipped")
    return Images(
        decoded.pixels,
        torch.full((len(decoded.positions),), UNLABELLED),
        tuple(classes),
        spec,
        note="; ".join(filter(None, notes)),
        files=tuple(names[i] for i in decoded.positions),
    )
