"""What a folder of images holds: which of its folders are splits, which are classes, and the files of each."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from robustcls.core.errors import InputError
from robustcls.core.names import quoted, readable, some_of
from robustcls.data._endings import endings, how_to_read
from robustcls.data._split_names import Spelling, spellings
from robustcls.data.stratify import stratified_order

SPLIT_SEED = 8020  # for folders without a test split
TRAIN_SHARE = 0.8
TOOLS = {  # folders and files that tools leave behind; hidden ones are passed over by their name
    "@eadir", "__macosx", "__pycache__", "lost+found", "#recycle", "$recycle.bin", "#snapshot", "@tmp", "@recycle",
    "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip


class Files(NamedTuple):
    """The images of a split in reading order, and the class of each."""

    paths: list[str]
    labels: list[int]


@dataclass
class Layout:
    """What was found below a folder. Paths begin with `root`."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, Files]
    notes: dict[str, list[str]] = field(default_factory=dict)  # by split: what a reader must know

    def name_of(self, path: str) -> str:
        """The path below the root, with `/`, printable."""
        return readable(path.removeprefix(f"{self.root}/"))


@dataclass
class _Found:
    """The files below one folder: images, those passed over, and links that lead back."""

    images: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)


def find_splits(root: Path) -> dict[str, Path]:
    """The folders with class folders that are named as splits, by `train`, `val` and `test`. Raises InputError."""
    return _splits(root)[0]


def lay_out(root: Path, split: str, *, whole: bool = False) -> Layout:
    """Finds classes and files for reading `split`: train, test, or val where there is one beside test.

    whole: class folders alone are the test split, all of them. Raises InputError where there is nothing to read.
    """
    if not root.is_dir():
        raise InputError(f"folder {root}: {'is a file' if root.exists() else 'there is no such folder'}: name a folder")
    homes, notes = _splits(root)
    if not homes:
        layout = _class_folders_alone(root, split, whole and split == "test")
    else:
        layout = _splits_of_classes(root, homes, split, notes)
    layout.notes = {name: notes + said for name, said in layout.notes.items()}
    return layout


def _splits(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The home of the class folders of each split, empty where class folders stand alone; and notes on what was taken."""
    names = _folders(root)
    if len(names) == 1 and not spellings(names):
        inner = root / names[0]
        if any(_folders(inner / name) for name in spellings(_folders(inner))):
            return _splits(inner)
    spelled = spellings(names)
    homes = {name: _home(root / name, spelling.split) for name, spelling in spelled.items()}
    full = [name for name in spelled if _folders(homes[name])]
    flat = [name for name in spelled if name not in full]
    if not full:
        return {}, _classes_named_as_splits(root, names, flat, spelled)
    found: dict[str, Path] = {}
    taken: dict[str, str] = {}
    for name in full:
        split = spelled[name].split
        if split in taken:
            both = f"{readable(taken[split])}/ and {readable(name)}/"
            raise InputError(f"folder {root}: {both} both look like the {split} split: rename one of them")
        found[split], taken[split] = homes[name], name
    notes = [f"{quoted(name)} is the {split} split" for split, name in taken.items() if name != split]
    if flat:
        notes.append(f"{some_of(flat)} has no class folders and is not used")
    if others := [name for name in names if name not in spelled]:
        notes.append(f"folders not used: {some_of(others)}")
    return found, notes


def _classes_named_as_splits(
    root: Path, names: Sequence[str], flat: Sequence[str], spelled: dict[str, Spelling]
) -> list[str]:
    """Raises InputError where folders of loose images are splits by their names; else a note on a class so called."""
    if not flat:
        return []
    listed = " and ".join(f"{readable(name)}/" for name in flat[:3])
    if len(flat) == len(names) or len({spelled[name].split for name in flat}) > 1:
        raise InputError(
            f"folder {root}: no images in class folders: {listed} named as splits hold none: sort the images by class, as "
            f"in {readable(flat[0])}/CLASS/IMAGE (labels in a table: move each image into the folder of its class)"
        )
    return [f"{some_of(flat)} taken as a class, not as a split, for it stands beside class folders"]


def _home(parent: Path, split: str) -> Path:
    """The folder that holds the class folders: a split's own, or one inside it that is named as it, once more."""
    while len(inner := _folders(parent)) == 1:
        same = inner[0].lower() == parent.name.lower() or any(s.split == split for s in spellings(inner).values())
        if not same or not _folders(parent / inner[0]):
            break
        parent = parent / inner[0]
    return parent


def _splits_of_classes(root: Path, homes: dict[str, Path], split: str, taken: Sequence[str]) -> Layout:
    used = dict(homes)
    notes: dict[str, list[str]] = {"test": []}
    if "test" not in used and "val" in used:
        used["test"] = used.pop("val")
        notes["test"].append(f"{quoted(used['test'].name)} stands for test")
    aside = f" ({'; '.join(taken)})" if taken else ""
    if "test" not in used:
        raise InputError(f"folder {root}: has train/ and neither test/ nor val/ with class folders{aside}: add one")
    if split == "train" and "train" not in used:
        raise InputError(
            f"folder {root}: has {readable(used['test'].name)}/ and no train/ with class folders{aside}: enough to evaluate "
            "(--split test), nothing to train on: add train/"
        )
    classes, found = _classes_of(root, used)
    files: dict[str, Files] = {}
    for name, home in used.items():
        by_class = {label: its for label, its in found[name].items() if label}
        files[name] = _in_order(classes, by_class)
        notes[name] = [*notes.get(name, []), *_remarks(root, list(found[name].values()))]
        without = [label for label in classes if not by_class.get(label, _Found()).images]
        if without and name == split == "train":
            raise InputError(
                f"folder {home / without[0]}: no images ({_wanted()}): fill it or remove it{_unread(by_class)}"
            )
        if without:
            notes[name].append(f"no {name} images of {len(without)} of {len(classes)} classes: {some_of(without)}")
    return Layout(root, tuple(map(readable, classes)), files, notes)


def _classes_of(root: Path, homes: dict[str, Path]) -> tuple[list[str], dict[str, dict[str, _Found]]]:
    """The class names as the folders spell them, and what each split holds of each.

    The classes are those of train, else of the other splits together. Names are compared in Unicode's composed form, for
    archives made on a Mac hold the decomposed one. Under the class "" stand the files that lie beside the class folders.
    """
    first = "train" if "train" in homes else "test"
    names: dict[str, str] = {}
    found: dict[str, dict[str, _Found]] = {}
    for split in sorted(homes, key=lambda split: split != first):
        found[split] = {"": _loose(homes[split])}
        for folder in _folders(homes[split]):
            its, key = _walk(homes[split] / folder), unicodedata.normalize("NFC", folder)
            if key not in names and split != first and "train" in homes:
                if not its.images:
                    continue
                raise InputError(
                    f"folder {root}: class {readable(folder)!r} is in {homes[split].name}/ only: {homes[first].name}/ and "
                    f"{homes[split].name}/ need the same classes"
                )
            name = names.setdefault(key, folder)
            if name in found[split]:
                raise InputError(f"folder {homes[split]}: two class folders are called {readable(name)!r}: rename one")
            found[split][name] = its
    classes = sorted(names.values())
    _check_classes(homes[first], classes, list(found.values()))
    return classes, found


def _class_folders_alone(root: Path, split: str, whole: bool) -> Layout:
    classes = _folders(root)
    by_class = {name: _walk(root / name) for name in classes}
    loose = _loose(root)
    _check_classes(root, classes, [{"": loose, **by_class}])
    files = _in_order(classes, by_class)
    empty = [name for name in classes if not by_class[name].images]
    notes = [*_look_like_splits(root, classes), *_remarks(root, [loose, *by_class.values()])]
    if whole:
        notes.append(f"class folders alone: all {len(files.paths)} images are the test split")
        if empty:
            notes.append(f"no test images of {len(empty)} of {len(classes)} classes: {some_of(empty)}")
        splits = {"test": files}
    else:
        if empty:
            raise InputError(
                f"folder {root / empty[0]}: no images ({_wanted()}): fill it or remove it{_unread(by_class)}"
            )
        splits = _divide(root, files)
        part = f"{len(splits[split].paths)} of {len(files.paths)} images"
        share = (
            "20% that training leaves out; folder:PATH(whole=True) takes all" if split == "test" else "80% to train on"
        )
        notes.append(f"class folders alone, divided by a fixed seed: {part} ({share})")
    return Layout(root, tuple(map(readable, classes)), splits, {name: list(notes) for name in splits})


def _in_order(classes: Sequence[str], by_class: dict[str, _Found]) -> Files:
    """Sorted by class and path."""
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        its = sorted(by_class[name].images) if name in by_class else []
        paths += its
        labels += [label] * len(its)
    return Files(paths, labels)


def _divide(root: Path, files: Files) -> dict[str, Files]:
    order, num_train = stratified_order(torch.tensor(files.labels), SPLIT_SEED), round(TRAIN_SHARE * len(files.labels))
    parts = {"train": sorted(order[:num_train].tolist()), "test": sorted(order[num_train:].tolist())}
    divided = {
        split: Files([files.paths[i] for i in part], [files.labels[i] for i in part]) for split, part in parts.items()
    }
    if any(set(part.labels) != set(files.labels) for part in divided.values()):
        raise InputError(
            f"folder {root}: too few images to split 80/20: give each class 5 or more, or make train/ and test/"
        )
    return divided


def _check_classes(parent: Path, classes: Sequence[str], found: Sequence[dict[str, _Found]]) -> None:
    """Raises InputError unless two classes have images, in one split or another."""
    filled = [name for name in classes if any(name in split and split[name].images for split in found)]
    if not filled:
        passed = [path for split in found for its in split.values() for path in its.passed]
        more = f" ({len(passed)} files passed over, such as {quoted(passed[0])})" if passed else ""
        hint = how_to_read(passed)
        raise InputError(f"folder {parent}: no images in class folders: put {_wanted()} into them{more}{hint}")
    if len(filled) == 1:
        raise InputError(
            f"folder {parent}: only one class, {readable(filled[0])!r}: a classifier needs a folder for each of two"
        )


def _look_like_splits(home: Path, classes: Sequence[str]) -> list[str]:
    """A note where every class folder holds the same folders, so that they may be splits, or splits be inside them."""
    inside = {tuple(_folders(home / name)) for name in classes}
    if len(classes) < 2 or len(inside) > 1 or len(inner := inside.pop()) < 2:
        return []
    return [f"each class folder holds {some_of(inner)}, read as one: if either are splits, name them train and test"]


def _wanted() -> str:
    return ".png, .jpg, .tiff or other files that Pillow reads"


def _unread(by_class: dict[str, _Found]) -> str:
    return how_to_read([path for its in by_class.values() for path in its.passed])


def _remarks(root: Path, found: Sequence[_Found]) -> list[str]:
    """What a reader must know of the files that were not taken."""
    prefix = f"{root}/"
    passed = sorted(path.removeprefix(prefix) for its in found for path in its.passed)
    loops = sorted(path.removeprefix(prefix) for its in found for path in its.loops)
    remarks = []
    if passed:
        what = "1 file passed over that is" if len(passed) == 1 else f"{len(passed)} files passed over that are"
        remarks.append(f"{what} no image in a class folder by ending, such as {quoted(passed[0])}{how_to_read(passed)}")
    if loops:
        what = "1 linked folder leads" if len(loops) == 1 else f"{len(loops)} linked folders lead"
        remarks.append(f"{what} to images that are read already, such as {quoted(loops[0])}")
    return remarks


def _passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower() in TOOLS


def _scan(parent: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(parent) as entries:
            return sorted((entry for entry in entries if not _passed_over(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"folder {parent}: {error.strerror}: make it readable, or take it out") from None


def _folders(parent: Path) -> list[str]:
    return [entry.name for entry in _scan(parent) if entry.is_dir()] if parent.is_dir() else []


def _loose(parent: Path) -> _Found:
    """The files that lie beside class folders: of no class, so passed over."""
    return _Found(passed=[f"{parent}/{entry.name}" for entry in _scan(parent) if not entry.is_dir()])


def _walk(top: Path) -> _Found:
    """The files below a folder, of linked folders, too: each folder once, and none that holds the folder itself."""
    found = _Found()
    top_real = os.path.realpath(top)
    visited: set[str] = set()
    places, links = [str(top)], list[str]()
    while places or links:
        linked = not places
        place = places.pop() if places else links.pop(0)  # folders before links: each is read under its own name
        real = os.path.realpath(place)
        if real in visited or (linked and f"{top_real}/".startswith(f"{real.rstrip('/')}/")):
            found.loops.append(place)
            continue
        visited.add(real)
        for entry in _scan(place):
            path = f"{place}/{entry.name}"
            if entry.is_dir():
                (links if entry.is_symlink() else places).append(path)
            elif os.path.splitext(entry.name)[1].lower() in endings():
                found.images.append(path)
            else:
                found.passed.append(path)
    return found
