"""Finds which of the folders below a folder are splits, and where the class folders of each are.

Splits are recognised by name: Train, training_set, seg_test, cifartrain, valid, Testing Data, train-224 ...
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from robustcls.core.errors import InputError
from robustcls.core.names import quoted, readable, some_of
from robustcls.data.folders.walk import folders, has_loose_images, walk

DEPTH = 8  # most levels of folders with a single folder inside that are followed; links may form a loop
NESTED = "folder:PATH(nested=True)"
WORDS = {
    "train": (
        "train", "training", "trainings", "trn", "trainval", "entrenamiento", "entrainement", "apprentissage", "treino",
        "treinamento", "addestramento", "训练",
    ),
    "val": (
        "val", "valid", "validate", "validation", "dev", "validierung", "validierungs", "validacion", "validacao",
        "validazione", "验证",
    ),
    "test": ("test", "tests", "testing", "tst", "eval", "evaluation", "holdout", "prueba", "pruebas", "teste", "测试"),
}  # fmt: skip
SHORT = {"tr": "train", "va": "val", "vl": "val", "ts": "test", "te": "test"}  # only where every folder is a split
FILLERS = (  # words that say only that it is a folder of images
    "set", "sets", "data", "dataset", "split", "image", "images", "img", "imgs", "pic", "pics", "picture", "pictures",
    "photo", "photos", "jpg", "jpeg", "png", "tif", "tiff", "folder", "dir", "samples", "files", "px", "x", "resized",
    "cropped", "crop", "crops", "final", "processed", "preprocessed", "aug", "augmented", "daten", "datensatz", "bilder",
    "集", "数据", "数据集",
)  # fmt: skip
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_TOKEN = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})({'|'.join(FILLERS)})?")
_NUMBERED = re.compile(r"(k?fold|split|cv)s?[\W_]*\d+", re.IGNORECASE)


class Spelling(NamedTuple):
    """The meaning of a folder's name: the split, and the remaining words, such as ("seg",) in seg_train."""

    split: str
    rest: tuple[str, ...]


class Home(NamedTuple):
    """The location of a split's class folders."""

    name: str  # as the folder spells it
    path: Path
    classes: dict[str, Path]
    beside: tuple[Path, ...]  # folders that contain the class folders; loose files in them belong to no class


class Homes(NamedTuple):
    """The home of each split by train, val and test; the home of the class folders where there are no splits; and notes."""

    splits: dict[str, Home]
    alone: Home
    notes: list[str]


def find_homes(root: Path, *, nested: bool = False) -> Homes:
    """Find class folders inside splits, splits inside class folders, or class folders alone.

    nested: everything below a class folder belongs to the class. Raises InputError where the layout is ambiguous.
    """
    base = _unwrapped(root, nested)
    notes = [] if base == root else [f"read from {quoted(str(base.relative_to(root)))}"]
    names, alone = folders(base), _home(base)
    spelled = spellings(names)
    inner = {name: _inner(base / name, spelling.split) for name, spelling in spelled.items()}
    full = {name: spelling for name, spelling in spelled.items() if folders(inner[name])}
    flat = [name for name in spelled if name not in full]
    if full:
        taken = _by_split(base, full)
        splits = {split: _home(inner[name]) for split, name in taken.items()}
        notes += [f"{quoted(name)} is the {split} split" for split, name in taken.items() if name != split]
        notes += [f"{some_of(flat)} has no class folders and is not used"] if flat else []
        notes += _unused([name for name in names if name not in spelled])
        searched = list(splits.values())
    else:
        notes += _check_flat(base, names, flat, spelled)
        splits, found_notes = ({}, []) if nested else _splits_in_classes(base, alone)
        notes += found_notes
        searched = [] if splits else [alone]
    for home in [] if nested else searched:
        notes += _look_for_repeats(home)
    return Homes(splits, alone, notes)


def _home(path: Path) -> Home:
    return Home(path.name, path, {name: path / name for name in folders(path)}, (path,))


def _unused(names: Sequence[str]) -> list[str]:
    return [f"folders not used: {some_of(names)}"] if names else []


def _by_split(parent: Path, spelled: dict[str, Spelling]) -> dict[str, str]:
    """Return the folder of each split. Raises InputError where two folders look like the same split."""
    taken: dict[str, str] = {}
    for name, (split, _) in spelled.items():
        if split in taken:
            both = f"{readable(taken[split])}/ and {readable(name)}/"
            raise InputError(f"folder {parent}: {both} both look like the {split} split: rename one of them")
        taken[split] = name
    return taken


def _unwrapped(root: Path, nested: bool) -> Path:
    """Return the folder that contains splits or classes: the root, or the end of a chain of single folders below it."""
    base = root
    for _ in range(DEPTH):
        names = folders(base)
        if len(names) != 1 or spellings(names) or has_loose_images(base / names[0]):
            break
        base = base / names[0]
    names = folders(base)
    has_splits = any(folders(base / name) for name in spellings(names))
    return base if has_splits or (len(names) > 1 and not nested) else root


def _inner(parent: Path, split: str) -> Path:
    """Return the folder with the class folders of a split: the split's folder, or a single folder inside it.

    The folder inside is named like the split, or with words such as "images".
    """
    for _ in range(DEPTH):
        names = folders(parent)
        if len(names) != 1 or not folders(parent / names[0]):
            break
        same = names[0].lower() == parent.name.lower() or any(s.split == split for s in spellings(names).values())
        if not same and not says_images(names[0]):
            break
        parent = parent / names[0]
    return parent


def _check_flat(base: Path, names: Sequence[str], flat: Sequence[str], spelled: dict[str, Spelling]) -> list[str]:
    """Raise InputError where folders of loose images are named as splits. Return a note where one is read as a class."""
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
    return [f"{some_of(flat)} taken as a class, not as a split, since it lies beside class folders"]


def _splits_in_classes(base: Path, alone: Home) -> tuple[dict[str, Home], list[str]]:
    """Return the homes of splits inside class folders, as in cat/train and cat/test, and notes. Empty where there are none.

    Raises InputError where some class folders contain splits and others do not.
    """
    spelled = {name: inside for name, path in alone.classes.items() if (inside := spellings(folders(path)))}
    if not spelled:
        return {}, []
    outside = [name for name, path in alone.classes.items() if name not in spelled and walk(path).images]
    several = [name for name, inside in spelled.items() if len({one.split for one in inside.values()}) > 1]
    if outside and several:
        raise InputError(
            f"folder {base}: {some_of([several[0]])} holds {some_of(list(spelled[several[0]]))}, which look like splits, and "
            f"{some_of([outside[0]])} holds none: give each class the same splits, or say with {NESTED} that they are none"
        )
    if outside:
        return {}, []
    homes: dict[str, Home] = {}
    beside = (base, *(base / name for name in spelled))
    for name, inside in spelled.items():
        for split, inner in _by_split(base / name, inside).items():
            homes.setdefault(split, Home(split, base, {}, beside)).classes[name] = base / name / inner
    first, inside = next(iter(spelled.items()))
    notes = [f"the class folders hold the splits, such as {quoted(f'{first}/{next(iter(inside))}')}"]
    unused = [f"{name}/{one}" for name, inside in spelled.items() for one in folders(base / name) if one not in inside]
    return homes, notes + _unused(unused)


def _look_for_repeats(home: Home) -> list[str]:
    """Raise InputError where all class folders contain the same folders of images, because these may be the real classes.

    Return a note where they share only some folders.
    """
    inside = {name: set(folders(path)) for name, path in home.classes.items()}
    filled = [name for name in inside if inside[name] or has_loose_images(home.classes[name])]
    shared = sorted(set.intersection(*(inside[name] for name in filled))) if len(filled) > 1 else []
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


def spellings(names: Sequence[str]) -> dict[str, Spelling]:
    """Return those names of sibling folders that name a split, with their spellings.

    A name with an additional word, as in seg_train, names a split only where another split has the same word. The same holds
    for letters attached to the word for the split, as in cifartrain.
    """
    parsed = {name: spelling for name in names if (spelling := _parse(name))}
    found = {name: one for name, one in parsed.items() if not one.rest or _has_twin(one, parsed.values())}
    glued = {name: set(_glued(name)) for name in names if name not in found}
    every = [one for candidates in glued.values() for one in candidates]
    for name, candidates in glued.items():
        if twins := sorted(one for one in candidates if _has_twin(one, every)):
            found[name] = twins[0]
    short = {name: Spelling(SHORT[name.lower()], ()) for name in names if name.lower() in SHORT}
    if short and len(found | short) == len(names) and len({one.split for one in (found | short).values()}) > 1:
        found |= short
    return {name: found[name] for name in names if name in found}


def parts_of_no_split(names: Sequence[str]) -> bool:
    """Whether all names are parts of a data set that are neither a class nor a single split, such as train_test or fold1."""
    return len(names) > 1 and all(_NUMBERED.fullmatch(name) or len(set(_splits_in(_words(name)))) > 1 for name in names)


def says_images(name: str) -> bool:
    """Whether a name says only that the folder contains images, such as images or img_data."""
    words = _words(name)
    return bool(words) and all(word in FILLERS for word in words)


def _has_twin(spelling: Spelling, others: Iterable[Spelling]) -> bool:
    """Whether a name of another split has the same additional words."""
    return any(one.rest == spelling.rest and one.split != spelling.split for one in others)


def _words(name: str) -> list[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", plain).lower())
    return ["holdout"] if words == ["hold", "out"] else words


def _splits_in(words: Sequence[str]) -> list[str]:
    return [_SPLIT_OF[match[1]] for word in words if (match := _TOKEN.fullmatch(word))]


def _parse(name: str) -> Spelling | None:
    words = _words(name)
    splits = _splits_in(words)
    if splits == ["train", "val"]:
        splits = ["train"]  # train and val together, beside a test split
    rest = tuple(word for word in words if not _TOKEN.fullmatch(word) and word not in FILLERS)
    return Spelling(splits[0], rest) if len(splits) == 1 else None


def _glued(name: str) -> Iterator[Spelling]:
    """Yield the spellings of a name in which a word begins or ends with the word for a split."""
    words = _words(name)
    for i, word in enumerate(words):
        for token, split in _SPLIT_OF.items():
            if len(word) > len(token) and (word.endswith(token) or word.startswith(token)):
                left = word.removesuffix(token) + "-" if word.endswith(token) else "-" + word.removeprefix(token)
                yield Spelling(split, (*words[:i], left, *words[i + 1 :]))
