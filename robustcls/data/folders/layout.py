"""Lists the files of each split of a folder of images, and the classes."""

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from robustcls.core.errors import InputError
from robustcls.core.names import quoted, readable, some_of
from robustcls.core.subset import stratified_order
from robustcls.data.folders.find_splits import Home, find_homes, says_images
from robustcls.data.folders.walk import WANTED, Contents, how_to_read, loose_files, remarks_on, walk
from robustcls.data.images import check_split

SPLIT_SEED = 8020  # for folders without a test split
TRAIN_SHARE = 0.8
SPLITS = ("train", "test", "val")


class Files(NamedTuple):
    """The images of a split in reading order, and the class of each."""

    paths: list[str]
    labels: list[int]

    def take(self, rows: Sequence[int]) -> "Files":
        """Return the images at these positions, in this order."""
        return Files([self.paths[i] for i in rows], [self.labels[i] for i in rows])


@dataclass
class Layout:
    """The splits of a folder. Paths begin with `root`. notes: remarks on the requested split."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, Files]
    notes: list[str]

    @property
    def everything(self) -> Files:
        """The images of all splits, sorted by class and path."""
        pairs = sorted(pair for files in self.splits.values() for pair in zip(files.labels, files.paths, strict=True))
        return Files([path for _, path in pairs], [label for label, _ in pairs])

    def name_of(self, path: str) -> str:
        """Return the path below the root, with `/` and printable."""
        return readable(path.removeprefix(f"{self.root}/"))


def lay_out(root: Path, split: str, *, whole: bool = False, nested: bool = False) -> Layout:
    """Find the classes and files for reading `split`: train, test, or val where there is one.

    whole: for a model that was not trained on this folder: a folder that has only class folders is one test split, and the
    splits need not have the same classes. nested: everything below a class folder belongs to the class. Raises InputError where
    there is nothing to read.
    """
    if not root.is_dir():
        raise InputError(f"folder {root}: {'is a file' if root.exists() else 'there is no such folder'}: name a folder")
    homes = find_homes(root, nested=nested)
    if split != "val" or "val" not in homes.splits:
        check_split(split)
    used, notes = dict(homes.splits), list(homes.notes)
    if alone := not used:
        strict = not (whole and split == "test")
        used = {"train" if strict else "test": homes.alone}
    else:
        strict = split == "train" and not whole
        if "test" not in used and "val" in used and split != "val":
            used["test"] = used.pop("val")
            notes += [f"{quoted(used['test'].name)} stands for test"] if split == "test" else []
        if split not in used:
            raise _lacking(root, used, split, homes.notes)
        if split == "train" and not used.keys() & {"test", "val"}:
            notes.append("no test split: the split val is held out of train")
    classes, contents = _classes_of(root, used, strict=strict)
    files = {name: _in_order(classes, contents[name]) for name in used}
    read = split if split in used else "train"
    notes += remarks_on(root, list(contents[read].values()))
    if alone and strict:
        everything = files["train"]
        files = _divide(root, everything)
        part = f"{len(files[split].paths)} of {len(everything.paths)} images"
        left_out = "20% that training leaves out; folder:PATH(whole=True) takes all"
        why = left_out if split == "test" else "80% to train on"
        notes.append(f"class folders alone, divided by a fixed seed: {part} ({why})")
    elif alone:
        notes.append(f"class folders alone: all {len(files['test'].paths)} images are the test split")
    for name in used:
        lacking = [one for one in classes if not contents[name][one].images]
        if lacking and name in ("train", split):
            notes.append(f"no {name} images of {len(lacking)} of {len(classes)} classes: {some_of(lacking)}")
    if len(classes) == len(_filled(classes, contents)) == 1:
        notes.append(f"only one class has images: {quoted(classes[0])}")
    return Layout(root, tuple(map(readable, classes)), files, notes)


def _lacking(root: Path, used: dict[str, Home], split: str, notes: Sequence[str]) -> InputError:
    """Return the error for a split that does not exist."""
    aside = f" ({'; '.join(notes)})" if notes else ""
    if split == "test":
        return InputError(
            f"folder {root}: has train/ and neither test/ nor val/ with class folders{aside}: add one, or evaluate on what is "
            'held out of train/ with `split="val"`'
        )
    others = " and ".join(f"{readable(home.name)}/" for home in used.values())
    return InputError(
        f"folder {root}: has {others} and no {split}/ with class folders{aside}: enough to evaluate "
        f'(`split="{next(iter(used))}"`), nothing to train on: add train/'
    )


def _classes_of(
    root: Path, homes: dict[str, Home], *, strict: bool
) -> tuple[list[str], dict[str, defaultdict[str, Contents]]]:
    """Return the class names as the folders spell them, and the contents of each class by split.

    The classes are those of all splits together. strict: those of train, each of which must have images. Names are compared in
    Unicode's composed form, because archives made on a Mac contain the decomposed one. The contents under "" are the files
    that lie beside the class folders.
    """
    first = next(name for name in SPLITS if name in homes)
    names: dict[str, str] = {}
    contents: dict[str, defaultdict[str, Contents]] = {}
    for split in sorted(homes, key=lambda split: split != first):
        home = homes[split]
        loose = Contents(passed=[path for folder in home.beside for path in loose_files(folder)])
        contents[split] = defaultdict(Contents, {"": loose})
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
            if name in contents[split]:
                raise InputError(f"folder {home.path}: two class folders are called {readable(name)!r}: rename one")
            contents[split][name] = its
    classes = sorted(names.values())
    _check_classes(homes[first], classes, contents, several=strict)
    empty = next((name for name in classes if strict and not contents[first][name].images), None)
    if empty is not None:
        hint = how_to_read(path for name, its in contents[first].items() if name for path in its.passed)
        raise InputError(f"folder {homes[first].classes[empty]}: no images ({WANTED}): fill it or remove it{hint}")
    return classes, contents


def _in_order(classes: Sequence[str], contents: defaultdict[str, Contents]) -> Files:
    """Return the images sorted by class and path."""
    pairs = [(path, label) for label, name in enumerate(classes) for path in sorted(contents[name].images)]
    return Files([path for path, _ in pairs], [label for _, label in pairs])


def _divide(root: Path, files: Files) -> dict[str, Files]:
    order, num_train = stratified_order(torch.tensor(files.labels), SPLIT_SEED), round(TRAIN_SHARE * len(files.labels))
    parts = {"train": order[:num_train], "test": order[num_train:]}
    divided = {split: files.take(sorted(part.tolist())) for split, part in parts.items()}
    if any(set(part.labels) != set(files.labels) for part in divided.values()):
        raise InputError(
            f"folder {root}: too few images to split 80/20: give each class 5 or more, or make train/ and test/"
        )
    return divided


def _check_classes(
    home: Home, classes: Sequence[str], contents: dict[str, defaultdict[str, Contents]], *, several: bool
) -> None:
    """Raise InputError where no class has images in any split, or only one although there must be several."""
    filled = _filled(classes, contents)
    if not filled:
        passed = [path for split in contents.values() for its in split.values() for path in its.passed]
        more = f" ({len(passed)} files passed over, such as {quoted(passed[0])})" if passed else ""
        raise InputError(
            f"folder {home.path}: no images in class folders: put {WANTED} into them{more}{how_to_read(passed)}"
        )
    if len(filled) == 1 and (several or says_images(filled[0])):
        raise InputError(
            f"folder {home.path}: only one class, {readable(filled[0])!r}: a classifier needs a folder for each of two"
        )


def _filled(classes: Sequence[str], contents: dict[str, defaultdict[str, Contents]]) -> list[str]:
    return [name for name in classes if any(its[name].images for its in contents.values())]
