"""A folder of images, with one folder per class."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.names import some_of
from robustcls.data.duplicates import note_copies
from robustcls.data.folders.decode import Decoded, decode, describe
from robustcls.data.folders.find_splits import find_homes
from robustcls.data.folders.form import Form, check_form, choose_form
from robustcls.data.folders.layout import Files, lay_out
from robustcls.data.folders.listed import find_listed
from robustcls.data.images import Images

LISTED = 10  # corrupt files that an error message names


def folder(
    path: str,
    asked: str,
    *,
    data_dir: str | None = None,
    size: int | None = None,
    resize: int | None = None,
    filter: str = "bilinear",
    grey: bool = False,
    scale: float | None = None,
    list: str | None = None,
    split: Literal["all", "train", "val", "test"] | None = None,
    whole: bool = False,
    nested: bool = False,
    skip_corrupt: bool = False,
    pick: Callable[[Tensor], Tensor] | None = None,
) -> Images:
    """Images below `path`: train/ and test/ (or val/), each with a folder per class; or class folders alone, split 80/20.

    Common spellings of the splits are recognised (Training, test_set, seg_train ...), also inside class folders (cat/train). A
    val/ beside test/ is used for validation in training. test/ alone is enough to evaluate, and train/ alone to train. Class
    names are the sorted folder names. Every file whose extension Pillow knows is read; hidden files and files that tools leave
    behind are skipped; linked folders are followed.

    Args:
        path: the folder.
        asked: the split, train, test or val.
        data_dir: not used.
        size: the side in pixels (shorter side resized, then centre crop). Without it, images keep their size, or become 224
            pixels wide and high where their sizes differ.
        resize: the length of the shorter side before the crop to `size`, as in torchvision's Resize and CenterCrop:
            RobustBench's Res256Crop224 is resize=256, size=224. Images that already have the size are not changed.
        filter: resampling filter, by its name in Pillow: nearest, box, bilinear, hamming, bicubic or lanczos.
        grey: convert to one channel (done anyway where all images are grey).
        scale: the value of 16-bit and float images that becomes white; 0 is black.
        list: a file that names the images to read, one per line, by their path below the folder or the end of it.
        split: the images to test on in place of the split `asked`: those of another split, or `all`.
        whole: for a model that was not trained on this folder: a folder that has only class folders is read as one test split,
            and a class may be missing from some splits.
        nested: folders inside a class folder belong to that class, even where all classes contain folders of the same names,
            which is otherwise an error.
        skip_corrupt: skip images that cannot be read, and name them, instead of stopping.
        pick: a function from int64 labels N to the sorted positions to decode; None for all.

    Returns:
        Images, whose note says what was skipped, converted or found twice.

    Raises:
        InputError: for a folder, a list or options that do not fit.
    """
    if size is not None and size < 1:
        raise InputError(f"folder: size={size} is not a size: give the side in pixels, such as 64")
    if scale is not None and scale <= 0:
        raise InputError(f"folder: scale={scale} is not a value: give the one that is white, such as 4095 for 12 bits")
    check_form(size, resize, filter)
    root = Path(path).expanduser()
    if split is not None and asked == "train":
        raise InputError(
            f"folder {root}: split={split} names the images to test on: leave it out to train or to calibrate"
        )
    read = _split_to_read(root, split, nested) if split else asked
    layout = lay_out(root, read, whole=whole or split is not None, nested=nested)
    files = layout.everything if split == "all" else layout.splits[read]
    listed: Sequence[int] = range(len(files.paths))
    if list is not None:
        listed, note = find_listed(Path(list).expanduser(), files, layout)
        files = files.take(listed)
        layout.notes.append(note)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # All splits get the same form, because a model trained on one must accept the others.
        others = [one for name in layout.splits if name != read for one in layout.splits[name].paths]
        form = choose_form([*files.paths, *others], size, grey, scale, pool)._replace(resize=resize, filter=filter)
        decoded, good = read_files(files, form, pick, skip_corrupt, pool)
    names = [layout.name_of(path) for path in files.paths]
    for label in sorted(set(files.labels) - {files.labels[i] for i in good}):
        raise InputError(f"{path}: every {read} image of class {layout.classes[label]!r} is corrupt: replace the files")
    skipped = [names[i] for i in sorted(decoded.failures)]
    notes = [*layout.notes, form.note, *describe(decoded, names, scale)]
    if skipped:
        notes.append(f"{len(skipped)} corrupt file{'s' if len(skipped) > 1 else ''} skipped: {some_of(skipped)}")
    # Look for the chosen test images in train; where train is read, for all test images.
    train, test = layout.splits.get("train", Files([], [])), layout.splits.get("test", Files([], []))
    if split is None:
        compared = files.take(decoded.positions) if read == "test" else files if read == "val" else test
        notes += note_copies(read, compared, train, layout.name_of)
    positions = torch.tensor(decoded.positions, dtype=torch.int64)
    return Images(
        decoded.pixels,
        torch.tensor(files.labels)[positions],
        layout.classes,
        f"folder:{path}",
        note="; ".join(note for note in notes if note),
        index=torch.tensor(listed, dtype=torch.int64)[positions],
        files=tuple(names[i] for i in decoded.positions),
        skipped=tuple(skipped),
    )


def _split_to_read(root: Path, split: str, nested: bool) -> str:
    """Return the split of the folder to read for the option `split`; for `all`, one that exists."""
    own = _splits(str(root), nested)
    return split if split != "all" else "train" if own and own.isdisjoint({"test", "val"}) else "test"


def has_val(path: str, *, whole: bool = False, nested: bool = False, **options: object) -> bool:
    """Whether the folder has a separate validation split. Raises InputError.

    Where there are train/ and val/ but no test/, val/ is used as the test split, and training holds validation images out of
    train/. whole: count val/ as the validation split even then, for a model that was not trained on this folder.
    """
    splits = _splits(path, nested)
    return "val" in splits and (whole or "test" in splits or "train" not in splits)


def has_test(path: str, *, nested: bool = False, split: str | None = None, **options: object) -> bool:
    """Whether there is a test split, or images that are used as one. Raises InputError."""
    splits = _splits(path, nested)
    return split is not None or not splits or not splits.isdisjoint({"test", "val"})


def _splits(path: str, nested: bool) -> set[str]:
    root = Path(path).expanduser()
    return set(find_homes(root, nested=nested).splits) if root.is_dir() else set()


def read_files(
    files: Files, form: Form, pick: Callable[[Tensor], Tensor] | None, skip_corrupt: bool, pool: ThreadPoolExecutor
) -> tuple[Decoded, list[int]]:
    """Decode the picked files. Where some are corrupt and skipped, pick again among the rest until all can be read.

    Return what was decoded, and the positions of all files that are not known to be corrupt. Raises InputError for a corrupt
    image without skip_corrupt.
    """
    labels = torch.tensor(files.labels, dtype=torch.int64)
    decoded = Decoded(torch.empty(0), [])
    while True:
        good = torch.tensor([i for i in range(len(labels)) if i not in decoded.failures], dtype=torch.int64)
        picked = (good[pick(labels[good])] if pick is not None and len(good) else good).tolist()
        known = set(decoded.positions)
        new = decode(files.paths, [i for i in picked if i not in known], form, pool)
        if new.failures and not skip_corrupt:
            raise _corrupt([(files.paths[i], why) for i, why in new.failures.items()])
        decoded = decoded.joined(new) if known else new
        if not new.failures:
            return decoded.take(picked), good.tolist()


def _corrupt(failures: list[tuple[str, str]]) -> InputError:
    if len(failures) == 1:
        ((path, why),) = failures
        return InputError(f"corrupt image {path}: {why}: replace it, or skip it with `skip_corrupt=True`")
    named = "; ".join(f"{path}: {why}" for path, why in failures[:LISTED])
    more = f"; and {len(failures) - LISTED} more" if len(failures) > LISTED else ""
    return InputError(
        f"{len(failures)} corrupt images: {named}{more}: replace them, or skip them all with `skip_corrupt=True`"
    )
