"""Which of the folders below a folder are splits, and where the class folders of each lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robustcls.core.errors import InputError
from robustcls.core.names import quoted, readable, some_of
from robustcls.data._split_names import Spelling, parts_of_no_split, says_images, spellings
from robustcls.data._walking import folders, has_loose_images, walk

DEPTH = 8  # of folders that hold one folder each; links may make a ring
NESTED = "folder:PATH(nested=True)"


class Home(NamedTuple):
    """The class folders of a split. beside: the folders in which they lie, where loose files are of no class."""

    name: str  # as a person knows it
    path: Path
    classes: dict[str, Path]
    beside: tuple[Path, ...]


class Homes(NamedTuple):
    """The home of each split, by train, val and test; without any, that of class folders that stand alone; notes."""

    splits: dict[str, Home]
    alone: Home
    notes: list[str]


def find_homes(root: Path, *, nested: bool = False) -> Homes:
    """Finds class folders in splits, splits in class folders, or class folders alone. Raises InputError where it is not clear.

    nested: whatever lies below a class folder belongs to the class.
    """
    base = _unwrapped(root, nested)
    names = folders(base)
    spelled = spellings(names)
    inner = {name: _inner(base / name, its.split) for name, its in spelled.items()}
    full = [name for name in spelled if folders(inner[name])]
    notes = [] if base == root else [f"read from {quoted(str(base.relative_to(root)))}"]
    if not full:
        notes += _classes_named_as_splits(base, names, [name for name in spelled if name not in full], spelled)
        classes = _home(base)
        splits, said = ({}, []) if nested else _splits_in_classes(base, classes)
        if not splits and not nested:
            said = _look_for_repeats(classes)
        return Homes(splits, classes, notes + said)
    splits, said = _named_splits(base, names, spelled, full, inner)
    for home in splits.values():
        notes += [] if nested else _look_for_repeats(home)
    return Homes(splits, Home(base.name, base, {}, ()), notes + said)


def _home(path: Path) -> Home:
    return Home(path.name, path, {name: path / name for name in folders(path)}, (path,))


def _named_splits(
    base: Path, names: Sequence[str], spelled: dict[str, Spelling], full: Sequence[str], inner: dict[str, Path]
) -> tuple[dict[str, Home], list[str]]:
    found: dict[str, Home] = {}
    taken: dict[str, str] = {}
    for name in full:
        split = spelled[name].split
        if split in taken:
            both = f"{readable(taken[split])}/ and {readable(name)}/"
            raise InputError(f"folder {base}: {both} both look like the {split} split: rename one of them")
        found[split], taken[split] = _home(inner[name]), name
    notes = [f"{quoted(name)} is the {split} split" for split, name in taken.items() if name != split]
    if flat := [name for name in spelled if name not in full]:
        notes.append(f"{some_of(flat)} has no class folders and is not used")
    if others := [name for name in names if name not in spelled]:
        notes.append(f"folders not used: {some_of(others)}")
    return found, notes


def _unwrapped(root: Path, nested: bool) -> Path:
    """The folder that holds splits or classes: the root, or one inside it where each holds one folder alone."""
    base = root
    for _ in range(DEPTH):
        names = folders(base)
        if len(names) != 1 or spellings(names) or has_loose_images(base / names[0]):
            break
        base = base / names[0]
    names = folders(base)
    splits = [name for name in spellings(names) if folders(base / name)]
    return base if splits or (len(names) > 1 and not nested) else root


def _inner(parent: Path, split: str) -> Path:
    """The folder that holds the class folders: a split's own, or one inside it that is named as it, or "images"."""
    for _ in range(DEPTH):
        names = folders(parent)
        if len(names) != 1 or not folders(parent / names[0]):
            break
        same = names[0].lower() == parent.name.lower() or any(s.split == split for s in spellings(names).values())
        if not same and not says_images(names[0]):
            break
        parent = parent / names[0]
    return parent


def _classes_named_as_splits(
    base: Path, names: Sequence[str], flat: Sequence[str], spelled: dict[str, Spelling]
) -> list[str]:
    """Raises InputError where folders of loose images are splits by their names; else a note on a class so called."""
    if parts_of_no_split(names) and not any(folders(base / name) for name in names):
        raise InputError(
            f"folder {base}: {some_of(names)} are named as parts of a data set, not as classes: sort the images by class, as "
            "in train/CLASS/IMAGE and test/CLASS/IMAGE"
        )
    if not flat:
        return []
    listed = " and ".join(f"{readable(name)}/" for name in flat[:3])
    if len(flat) == len(names) or len({spelled[name].split for name in flat}) > 1:
        raise InputError(
            f"folder {base}: no images in class folders: {listed} named as splits hold none: sort the images by class, as "
            f"in {readable(flat[0])}/CLASS/IMAGE (labels in a table: move each image into the folder of its class)"
        )
    return [f"{some_of(flat)} taken as a class, not as a split, for it stands beside class folders"]


def _splits_in_classes(base: Path, alone: Home) -> tuple[dict[str, Home], list[str]]:
    """The splits where each class folder holds them, as in cat/train and cat/test; none where no class folder does.

    Raises InputError where some do and others do not.
    """
    spelled = {name: spellings(folders(path)) for name, path in alone.classes.items()}
    inside = [name for name, its in spelled.items() if its]
    if not inside:
        return {}, []
    outside = [name for name, path in alone.classes.items() if not spelled[name] and walk(path).images]
    several = [name for name in inside if len({one.split for one in spelled[name].values()}) > 1]
    if outside and several:
        raise InputError(
            f"folder {base}: {some_of([several[0]])} holds {some_of(list(spelled[several[0]]))}, which look like splits, and "
            f"{some_of([outside[0]])} holds none: give each class the same splits, or say with {NESTED} that they are none"
        )
    if outside:
        return {}, []
    homes: dict[str, Home] = {}
    beside = (base, *(alone.classes[name] for name in inside))
    unused = []
    for name in inside:
        taken: dict[str, str] = {}
        for folder, one in spelled[name].items():
            if one.split in taken:
                both = f"{readable(taken[one.split])}/ and {readable(folder)}/"
                raise InputError(
                    f"folder {base / name}: {both} both look like the {one.split} split: rename one of them"
                )
            taken[one.split] = folder
            homes.setdefault(one.split, Home(one.split, base, {}, beside)).classes[name] = base / name / folder
        unused += [f"{name}/{folder}" for folder in folders(base / name) if folder not in spelled[name]]
    notes = [f"the class folders hold the splits, such as {quoted(f'{inside[0]}/{next(iter(spelled[inside[0]]))}')}"]
    return homes, notes + ([f"folders not used: {some_of(unused)}"] if unused else [])


def _look_for_repeats(home: Home) -> list[str]:
    """Raises InputError where all class folders hold the same folders of images, so that these may be the classes; a note
    where they share some."""
    inside = {name: set(folders(path)) for name, path in home.classes.items()}
    filled = [name for name in inside if inside[name] or has_loose_images(home.classes[name])]
    if len(filled) < 2:
        return []
    shared = sorted(set.intersection(*(inside[name] for name in filled)))
    if len(shared) > 1:
        shared = [one for one in shared if all(walk(home.classes[name] / one).images for name in filled)]
    if len(shared) < 2:
        return []
    if any(len(inside[name]) > len(shared) for name in filled):
        return [f"each class folder holds {some_of(shared)}, read as one"]
    raise InputError(
        f"folder {home.path}: {some_of(filled)} all hold {some_of(shared)}: which are the classes? Name the outer folders "
        f"train and test if they are splits, put the classes outside if they are inside, or say with {NESTED} that the "
        "outer folders are the classes"
    )
