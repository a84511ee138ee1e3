"""How people spell the splits of a data set: Train, training_set, seg_test, valid, Testing Data, train-224 ..."""

import re
from collections.abc import Sequence
from typing import NamedTuple

WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "holdout"),
}
FILLERS = (  # words that say no more than that it is a folder of images
    "set", "sets", "data", "dataset", "split", "image", "images", "img", "imgs", "pic", "pics", "picture", "pictures",
    "photo", "photos", "jpg", "jpeg", "png", "tif", "tiff", "folder", "dir", "samples", "files", "px", "x", "resized",
    "cropped", "crop", "crops", "final", "processed", "preprocessed", "aug", "augmented",
)  # fmt: skip
_SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
_TOKEN = re.compile(rf"({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})({'|'.join(FILLERS)})?")


class Spelling(NamedTuple):
    """What a folder's name says: a split, and the words beside it, as ("seg",) in seg_train."""

    split: str
    rest: tuple[str, ...]


def spellings(names: Sequence[str]) -> dict[str, Spelling]:
    """Of the names of folders that lie together, those that name a split.

    A word that says more than "images of" beside the split's own, as in seg_train, counts where another split has the same.
    """
    parsed = {name: found for name in names if (found := _parse(name))}
    return {
        name: found
        for name, found in parsed.items()
        if not found.rest or any(one.rest == found.rest and one.split != found.split for one in parsed.values())
    }


def _parse(name: str) -> Spelling | None:
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    splits, rest = [], []
    if words == ["hold", "out"]:
        words = ["holdout"]
    for word in words:
        if match := _TOKEN.fullmatch(word):
            splits.append(_SPLIT_OF[match[1]])
        elif word not in FILLERS:
            rest.append(word)
    return Spelling(splits[0], tuple(rest)) if len(splits) == 1 else None
