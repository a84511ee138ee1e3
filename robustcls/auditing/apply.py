"""Write a copy of a data set that is corrected by a person's decisions. Test and validation images stay unchanged."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from PIL import Image
from torch import Tensor

from robustcls.auditing.decisions import KEEP, RELABEL, REMOVE, Decision, read_decisions
from robustcls.core.errors import InputError, unknown
from robustcls.core.folders import replaced_folder
from robustcls.core.names import quoted, readable
from robustcls.data.duplicates import digest
from robustcls.data.folders.layout import lay_out
from robustcls.data.folders.listed import find_listed
from robustcls.data.images import Images
from robustcls.data.spec import check_outside, folder_of, list_of
from robustcls.data.splits import has_test, has_val, load_all, load_split

REMOVED = -1


@dataclass(frozen=True)
class Applied:
    """Numbers of images that were relabelled, removed and explicitly kept, and of images in the copy's training split."""

    relabelled: int
    removed: int
    kept: int
    images: int


def apply_decisions(
    data: str, decisions: str | Path, out: str | Path, *, data_dir: str | None = None, skip_corrupt: bool = False
) -> Applied:
    """Write a folder with train/ and the other splits, one folder per class in each, to be read as `folder:OUT`.

    Files of a folder are copied byte by byte; other images are written as PNG. In the training split, relabelled images are in
    the folder of their new class and removed images are missing. Files that the spec does not read, because of its `list` or
    because they are corrupt, are not copied. Every class must keep at least one image.

    Args:
        data: the spec that was audited.
        decisions: a file with decisions: issues.csv, suggest.csv, or labels.csv from the page.
        out: a new folder.

    Raises:
        InputError: if the decisions are about other images or name an unknown class; then nothing is written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: name a new folder for the corrected copy with `out`")
    check_outside(data, out)
    decided = read_decisions(decisions)
    if not decided:
        raise InputError(f"{decisions} decides nothing: write {KEEP}, {RELABEL} or {REMOVE} into its column decision")
    images = load_all(data, data_dir=data_dir, skip_corrupt=skip_corrupt)
    labels = corrected_labels(images, decided, str(decisions))
    left = labels[labels != REMOVED].bincount(minlength=len(images.classes))
    for label in (left == 0).nonzero().flatten().tolist():
        raise InputError(f"{decisions} leaves no training image in class {quoted(images.classes[label])}: keep one")
    with replaced_folder(out) as part:
        place = folder_of(data)
        if place is not None:
            written = _copy_files(*place, list_of(data), images, labels, part)
        else:
            written = _write_png(images, labels, part / "train")
            for name in (["val"] if has_val(data) else []) + (["test"] if has_test(data) else []):
                other = load_split(data, name, data_dir=data_dir)
                _write_png(other, other.labels, part / name)
    removed = int((labels == REMOVED).sum())
    relabelled = int((labels != images.labels).sum()) - removed
    return Applied(relabelled, removed, len(decided) - relabelled - removed, written)


def corrected_labels(images: Images, decisions: Iterable[Decision], where: str = "the decisions") -> Tensor:
    """Return the corrected labels, int64 N, REMOVED for removed images. Raises InputError if a decision is about other data.

    where: the file of the decisions, for error messages.
    """
    names = images.files or tuple(map(str, images.index.tolist()))
    rows = {name: row for row, name in enumerate(names)}
    exact = {name: number for number, name in enumerate(images.classes)}
    numbers = {name.strip(): number for name, number in exact.items()} | exact
    labels = images.labels.clone()
    for one in decisions:
        row, place = rows.get(one.image), f"{where}, line {one.line}" if one.line else where
        if row is None:
            raise InputError(
                f"{place}: {quoted(one.image)} is not a training image of {images.name}: give decisions on this data; test "
                "images are not changed"
            )
        if images.classes[int(images.labels[row])] != one.label or digest(images.pixels[row]) != one.digest:
            raise InputError(
                f"{place}: {quoted(one.image)} is not the image of class {quoted(one.label)} that was audited: give decisions "
                f"on this data, read in the same way"
            )
        if one.decision == RELABEL:
            number = numbers.get(one.new_label, numbers.get(one.new_label.strip()))
            if number is None:
                raise InputError(f"{place}: {unknown('class', one.new_label, exact)}")
            labels[row] = number
        elif one.decision == REMOVE:
            labels[row] = REMOVED
    return labels


def _copy_files(root: Path, nested: bool, listed: Path | None, images: Images, labels: Tensor, out: Path) -> int:
    """Copy each file into the folder of its class: by `labels` in the training split, by its own label in other splits.

    listed: the file that lists the files to read of each split. Returns the number of training images.
    """
    layout = lay_out(root, "train", nested=nested)
    new = dict(zip(images.files or (), labels.tolist(), strict=True))
    written = {}
    for split, files in layout.splits.items():
        if listed is not None:
            files = files.take(find_listed(listed, files, layout)[0])
        if split == "train":
            files = files.take([row for row, path in enumerate(files.paths) if layout.name_of(path) in new])
        given = [new[layout.name_of(path)] for path in files.paths] if split == "train" else files.labels
        names = [readable(Path(path).name) for path in files.paths]
        places = _places(layout.classes, files.labels, given, names, out / split)
        for path, place in zip(files.paths, places, strict=True):
            if place is not None:
                shutil.copyfile(path, place)
        written[split] = sum(place is not None for place in places)
    return written["train"]


def _write_png(images: Images, labels: Tensor, out: Path) -> int:
    """Write each image as PNG into the folder of its class. Returns the number of images."""
    if images.pixels.shape[1] not in (1, 3):
        raise InputError(
            f"data {images.name}: images of {images.pixels.shape[1]} channels cannot be written as PNG: correct them in Python"
        )
    names = [f"{index:06d}.png" for index in images.index.tolist()]
    places = _places(images.classes, images.labels.tolist(), labels.tolist(), names, out)
    for row, place in enumerate(places):
        if place is not None:
            pixels = images.pixels[row].cpu()
            Image.fromarray((pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)).contiguous().numpy()).save(
                place
            )
    return sum(place is not None for place in places)


def _places(
    classes: Sequence[str], own: Sequence[int], labels: Sequence[int], names: Sequence[str], out: Path
) -> list[Path | None]:
    """Return the path of each image, None for removed images, and create the folders.

    Images that stay in their `own` class keep their names. Others get a number if their name exists in the new class.
    """
    folders = [out / name.replace("/", "_") for name in classes]
    if len(set(folders)) < len(folders):
        raise InputError("two classes have the same name as a folder: rename one")
    places: list[Path | None] = [None] * len(names)
    taken: set[Path] = set()
    late = []
    for row, (label, name) in enumerate(zip(labels, names, strict=True)):
        if label == own[row] and (place := folders[label] / name) not in taken:
            places[row] = place
            taken.add(place)
        elif label != REMOVED:
            late.append(row)
    for row in late:
        folder, name = folders[labels[row]], names[row]
        numbered = (folder / f"{number:06d}-{name}" for number in count(row))
        place = next(place for place in chain([folder / name], numbered) if place not in taken)
        places[row] = place
        taken.add(place)
    for folder in {place.parent for place in taken}:
        folder.mkdir(parents=True)
    return places
