"""Detection of duplicate images: in both training and test data, or under two labels."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from robustcls.core.names import quoted
from robustcls.data.folders.layout import Files

MOST_BYTES = 2 << 30  # total size of files of equal size; above it, duplicates are not looked for


def note_copies(split: str, tested: Files, train: Files, name_of: Callable[[str], str]) -> list[str]:
    """Return notes on `tested` files that are byte-identical to training files, and on identical files under two labels.

    split: the name of the split that is read. For train, all files are compared with each other; otherwise only with the tested
    ones. Only files that have the same size as another one are read, and none where these have more than MOST_BYTES.
    """
    paths, labels, first = [*tested.paths, *train.paths], [*tested.labels, *train.labels], len(tested.paths)
    groups = _equal_files(paths, len(paths) if split == "train" else first)
    if groups is None:
        return ["duplicates were not looked for: too many large files of equal size"]
    notes = []
    if pair := _shared(groups, first):
        count, one, other = pair
        notes.append(
            f"{count} of {first} {'val' if split == 'val' else 'test'} images are duplicates of training images, such as "
            f"{quoted(name_of(paths[one]))} of {quoted(name_of(paths[other]))}"
        )
    if two := [group for group in groups if len({labels[i] for i in group}) > 1]:
        one, other = two[0][0], next(i for i in two[0] if labels[i] != labels[two[0][0]])
        notes.append(
            f"{len(two)} image{'s lie' if len(two) > 1 else ' lies'} under two labels as duplicates, such as "
            f"{quoted(name_of(paths[one]))} and {quoted(name_of(paths[other]))}"
        )
    return notes


def find_copies(tested: Sequence[str], train: Sequence[str]) -> tuple[int, str, str] | None:
    """Count the tested files that are byte-identical to a training file. Return the count, one of them, and its copy.

    (0, "", "") where there is none; None where too much would have to be read.
    """
    paths = [*tested, *train]
    groups = _equal_files(paths, len(tested))
    if groups is None:
        return None
    count, one, other = _shared(groups, len(tested)) or (0, 0, 0)
    return (count, paths[one], paths[other]) if count else (0, "", "")


def _shared(groups: Sequence[Sequence[int]], first: int) -> tuple[int, int, int] | None:
    """Count the positions below `first` that share a group with a later position. Return the count and the first such pair.

    None where there is none.
    """
    shared = [group for group in groups if group[0] < first <= group[-1]]
    if not shared:
        return None
    return sum(i < first for group in shared for i in group), shared[0][0], next(i for i in shared[0] if i >= first)


def count_copies(tested: Tensor, train: Tensor) -> int:
    """Count the images of `tested` that also occur in `train`, pixel for pixel. uint8 N,C,H,W."""
    return int(are_copies(tested, train).sum())


def are_copies(tested: Tensor, *others: Tensor) -> Tensor:
    """Whether each image of `tested` also occurs among the others, pixel for pixel: bool N. uint8 N,C,H,W."""
    known = {digest(image) for images in others for image in images.cpu()}
    return torch.tensor([digest(image) in known for image in tested.cpu()], dtype=torch.bool)


def digest(image: Tensor) -> str:
    """Return a digest of an image's shape and pixels, 16 hex digits. uint8 C,H,W."""
    pixels = image.cpu().contiguous()
    text = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=8)
    text.update(pixels.numpy().data)
    return text.hexdigest()


def _equal_files(paths: Sequence[str], first: int) -> list[list[int]] | None:
    """Return groups of positions of byte-identical files, sorted; only groups with a position below `first`.

    None where too much would have to be read.
    """
    sizes: dict[int, int] = {}
    for i, path in enumerate(paths):
        with suppress(OSError):  # a dead link, which decoding reports
            sizes[i] = os.path.getsize(path)
    alike = [group for group in _groups(sizes.items()) if group[0] < first]
    if sum(sizes[i] for group in alike for i in group) > MOST_BYTES:
        return None
    digests: dict[int, bytes] = {}
    for group in alike:
        for i in group:
            with suppress(OSError), open(paths[i], "rb") as file:
                digests[i] = hashlib.file_digest(file, "blake2b").digest()
    return [group for group in _groups(digests.items()) if group[0] < first]


def _groups(keyed: Iterable[tuple[int, Hashable]]) -> list[list[int]]:
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    for i, key in keyed:
        by_key[key].append(i)
    return sorted(sorted(group) for group in by_key.values() if len(group) > 1)
