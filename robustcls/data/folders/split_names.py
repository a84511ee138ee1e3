"""Recognises splits by the names of folders: Train, training_set, seg_test, cifartrain, valid, Testing Data, train-224 ..."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
FILLERS = (  # words that say no more than that it is a folder of images
    "set", "sets", "data", "dataset", "split", "image", "images", "img", "imgs", "pic", "pics", "picture", "pictures",
    "photo", "photos", "jpg", "jpeg", "png", "tif", "tiff", "folder", "dir", "samples", "files", "px", "x", "resized",
    "cropped", "crop", "crops", "final", "processed", "preprocessed", "aug", "augmented", "daten", "datensatz", "bilder",
    "集", "数据", "数据集",
)  # fmt: skip
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_TOKEN = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})({'|'.join(FILLERS)})?")
_NUMBERED = re.compile(r"(k?fold|split|cv)s?[\W_]*\d+", re.IGNORECASE)


class Spelling(NamedTuple):
    """What a folder's name says: a split, and the words beside it, as ("seg",) in seg_train."""

    split: str
    rest: tuple[str, ...]


def spellings(names: Sequence[str]) -> dict[str, Spelling]:
    """Of the names of folders that lie together, those that name a split.

    A word that says more than "images of" beside the split's own, as in seg_train, counts where another split has the same,
    and so do letters that are glued to it, as in cifartrain.
    """
    parsed = {name: its for name in names if (its := _parse(name))}
    plain = list(parsed.values())
    found = {name: its for name, its in parsed.items() if not its.rest or _has_twin(its, plain)}
    glued = {name: set(_glued(name)) for name in names if name not in found}
    every = [one for candidates in glued.values() for one in candidates]
    for name, candidates in glued.items():
        if twins := sorted(one for one in candidates if _has_twin(one, every)):
            found[name] = twins[0]
    short = {name: Spelling(SHORT[name.lower()], ()) for name in names if name.lower() in SHORT}
    if short and len(found | short) == len(names) and len({its.split for its in (found | short).values()}) > 1:
        found |= short
    return {name: found[name] for name in names if name in found}


def parts_of_no_split(names: Sequence[str]) -> bool:
    """Whether all folders are named as parts of a data set that are neither classes nor one split: train_test, fold1."""
    return len(names) > 1 and all(_NUMBERED.fullmatch(name) or len(set(_splits_in(_words(name)))) > 1 for name in names)


def says_images(name: str) -> bool:
    """Whether the name says no more than that there are images: images, img_data."""
    words = _words(name)
    return bool(words) and all(word in FILLERS for word in words)


def _has_twin(spelling: Spelling, others: Sequence[Spelling]) -> bool:
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
        splits = ["train"]  # both together, beside a test split
    rest = tuple(word for word in words if not _TOKEN.fullmatch(word) and word not in FILLERS)
    return Spelling(splits[0], rest) if len(splits) == 1 else None


def _glued(name: str) -> Iterator[Spelling]:
    """What the name says where one of its words begins or ends with that of a split."""
    words = _words(name)
    for i, word in enumerate(words):
        for token, split in _SPLIT_OF.items():
            if len(word) > len(token) and (word.endswith(token) or word.startswith(token)):
                left = word.removesuffix(token) + "-" if word.endswith(token) else "-" + word.removeprefix(token)
                yield Spelling(split, (*words[:i], left, *words[i + 1 :]))
