"""What a folder of images holds: which of its folders are splits, which are classes, and the files of each."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from robustcls.core.errors import InputError
from robustcls.core.names import quoted, readable, some_of
from robustcls.core.subset import stratified_order
from robustcls.data._endings import how_to_read
from robustcls.data._homes import Home, Homes, find_homes
from robustcls.data._split_names import says_images
from robustcls.data._walking import Found, loose_files, remarks_on, unread, walk, wanted

SPLIT_SEED = 8020  # for folders without a test split
TRAIN_SHARE = 0.8
SPLITS = ("train", "test", "val")


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


def lay_out(root: Path, split: str, *, whole: bool = False, nested: bool = False) -> Layout:
    """Finds classes and files for reading `split`: train, test, or val where there is one.

    whole: for a model that was not trained on this folder: class folders alone are the test split, all of them, and the
    splits need not have the same classes. nested: what lies below a class folder belongs to the class. Raises InputError
    where there is nothing to read.
    """
    if not root.is_dir():
        raise InputError(f"folder {root}: {'is a file' if root.exists() else 'there is no such folder'}: name a folder")
    homes = find_homes(root, nested=nested)
    if homes.splits:
        layout = _splits_of_classes(root, homes, split, whole)
    else:
        layout = _class_folders_alone(root, homes.alone, split, whole and split == "test")
    layout.notes = {name: homes.notes + said for name, said in layout.notes.items()}
    return layout


def _splits_of_classes(root: Path, homes: Homes, split: str, whole: bool) -> Layout:
    used = dict(homes.splits)
    notes: dict[str, list[str]] = {name: [] for name in SPLITS}
    if "test" not in used and "val" in used and split != "val":
        used["test"] = used.pop("val")
        notes["test"].append(f"{quoted(used['test'].name)} stands for test")
    _check_splits(root, homes, used, split)
    if split == "train" and not used.keys() & {"test", "val"}:
        notes["train"].append("no test split: what is held out of train for validation is --split val")
    classes, found = _classes_of(root, used, strict=split == "train" and not whole)
    files: dict[str, Files] = {}
    for name, home in used.items():
        by_class = {label: its for label, its in found[name].items() if label}
        files[name] = _in_order(classes, by_class)
        notes[name] += remarks_on(root, list(found[name].values()))
        without = [label for label in classes if not by_class.get(label, Found()).images]
        if without and name == split == "train" and not whole:
            raise InputError(
                f"folder {home.classes.get(without[0], home.path / without[0])}: no images ({wanted()}): fill it or remove "
                f"it{unread(by_class)}"
            )
        if without:
            said = f"no {name} images of {len(without)} of {len(classes)} classes: {some_of(without)}"
            for reader in {name, split} if name == "train" else {name}:
                notes[reader].append(said)
    notes[split] += _one_class(classes, list(found.values()))
    return Layout(root, tuple(map(readable, classes)), files, notes)


def _check_splits(root: Path, homes: Homes, used: dict[str, Home], split: str) -> None:
    """Raises InputError where the split is not there."""
    aside = f" ({'; '.join(homes.notes)})" if homes.notes else ""
    if split in used:
        return
    if split == "test":
        raise InputError(
            f"folder {root}: has train/ and neither test/ nor val/ with class folders{aside}: add one, or judge what is held "
            "out of train/ with --split val"
        )
    others = " and ".join(f"{readable(home.name)}/" for home in used.values())
    raise InputError(
        f"folder {root}: has {others} and no {split}/ with class folders{aside}: enough to evaluate "
        f"(--split {next(iter(used))}), nothing to train on: add train/"
    )


def _classes_of(root: Path, homes: dict[str, Home], *, strict: bool) -> tuple[list[str], dict[str, dict[str, Found]]]:
    """The class names as the folders spell them, and what each split holds of each.

    The classes are those of all splits together; strict: those of train, which must be all. Names are compared in Unicode's
    composed form, for archives made on a Mac hold the decomposed one. Under the class "" stand the files that lie beside
    the class folders.
    """
    first = next(name for name in SPLITS if name in homes)
    names: dict[str, str] = {}
    found: dict[str, dict[str, Found]] = {}
    for split in sorted(homes, key=lambda split: split != first):
        home = homes[split]
        found[split] = {"": Found(passed=[path for folder in home.beside for path in loose_files(folder)])}
        for folder, path in home.classes.items():
            its, key = walk(path), unicodedata.normalize("NFC", folder)
            if key not in names and split != first:
                if not its.images:
                    continue
                if strict:
                    raise InputError(
                        f"folder {root}: class {readable(folder)!r} is in {home.name}/ only: {homes[first].name}/ "
                        f"and {home.name}/ need the same classes"
                    )
            name = names.setdefault(key, folder)
            if name in found[split]:
                raise InputError(f"folder {home.path}: two class folders are called {readable(name)!r}: rename one")
            found[split][name] = its
    classes = sorted(names.values())
    _check_classes(homes[first].path, classes, list(found.values()), several=strict)
    return classes, found


def _class_folders_alone(root: Path, home: Home, split: str, whole: bool) -> Layout:
    classes = list(home.classes)
    by_class = {name: walk(path) for name, path in home.classes.items()}
    loose = Found(passed=loose_files(home.path))
    _check_classes(home.path, classes, [{"": loose, **by_class}], several=not whole)
    files = _in_order(classes, by_class)
    empty = [name for name in classes if not by_class[name].images]
    notes = remarks_on(root, [loose, *by_class.values()])
    if whole:
        notes.append(f"class folders alone: all {len(files.paths)} images are the test split")
        if empty:
            notes.append(f"no test images of {len(empty)} of {len(classes)} classes: {some_of(empty)}")
        notes += _one_class(classes, [by_class])
        splits = {"test": files}
    else:
        if empty:
            raise InputError(
                f"folder {home.classes[empty[0]]}: no images ({wanted()}): fill it or remove it{unread(by_class)}"
            )
        splits = _divide(root, files)
        part = f"{len(splits[split].paths)} of {len(files.paths)} images"
        share = (
            "20% that training leaves out; folder:PATH(whole=True) takes all" if split == "test" else "80% to train on"
        )
        notes.append(f"class folders alone, divided by a fixed seed: {part} ({share})")
    return Layout(root, tuple(map(readable, classes)), splits, {name: list(notes) for name in splits})


def _in_order(classes: Sequence[str], by_class: dict[str, Found]) -> Files:
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


def _check_classes(parent: Path, classes: Sequence[str], found: Sequence[dict[str, Found]], *, several: bool) -> None:
    """Raises InputError unless a class has images, in one split or another, and two where there must be several."""
    filled = _filled(classes, found)
    if not filled:
        passed = [path for split in found for its in split.values() for path in its.passed]
        more = f" ({len(passed)} files passed over, such as {quoted(passed[0])})" if passed else ""
        hint = how_to_read(passed)
        raise InputError(f"folder {parent}: no images in class folders: put {wanted()} into them{more}{hint}")
    if len(filled) == 1 and (several or says_images(filled[0])):
        raise InputError(
            f"folder {parent}: only one class, {readable(filled[0])!r}: a classifier needs a folder for each of two"
        )


def _filled(classes: Sequence[str], found: Sequence[dict[str, Found]]) -> list[str]:
    return [name for name in classes if any(name in split and split[name].images for split in found)]


def _one_class(classes: Sequence[str], found: Sequence[dict[str, Found]]) -> list[str]:
    return (
        [f"only one class has images: {quoted(classes[0])}"]
        if len(_filled(classes, found)) == len(classes) == 1
        else []
    )
