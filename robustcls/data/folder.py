"""A folder of images, one sub-folder a class."""

import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from numpy.typing import NDArray

from robustcls.core.errors import InputError
from robustcls.data.images import Images, check_split
from robustcls.data.stratify import stratified_order

RECIPE = {
    "norm": "linf",
    "eps": "8/255",
    "augment": "crop_flip",
    "epochs": 30,
    "lr": 0.1,
    "batch_size": 128,
    "adv": "pgd(steps=7)",
}
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".gif")
SPLIT_SEED = 8020  # for folders without a test split
TRAIN_SHARE = 0.8
MIXED_SIZE = 224  # the side of images that come in several sizes, as usual for ImageNet
CHUNK = 256  # images a task: large enough that the pool's own work does not count


class Files(NamedTuple):
    """The images of a split in reading order, and the class of each."""

    paths: list[str]
    labels: list[int]


class Form(NamedTuple):
    """What every image is turned into."""

    height: int
    width: int
    channels: int
    note: str = ""


def folder(
    path: str,
    split: str,
    *,
    data_dir: str | None = None,
    size: int | None = None,
    grey: bool = False,
    skip_corrupt: bool = False,
) -> Images:
    """Images below `path`: train/ and test/ (or val/), each with a folder a class; or class folders alone, split 80/20.

    Class names are the sorted folder names. size: the side in pixels (shorter side resized, centre crop); without it the
    images keep their size, or become 224 where sizes differ. grey: one channel (taken anyway where all images are grey).
    skip_corrupt: leave out what cannot be read, and count it in the note, rather than stop. Hidden files and folders are
    passed over, links to images are images, EXIF orientation is ignored. data_dir is not used. Raises InputError.
    """
    check_split(split)
    if size is not None and size < 1:
        raise InputError(f"folder: size={size} is not a size: give the side in pixels, such as 64")
    classes, found = _find(Path(path).expanduser())
    files = found[split]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # The form is that of both splits together: a model trained on one must take the other.
        form = _choose_form([*found["train"].paths, *found["test"].paths], size, grey, pool)
        pixels, corrupt = _decode(files.paths, form, skip_corrupt, pool)
    labels, note = torch.tensor(files.labels), form.note
    if corrupt:
        bad = set(corrupt)
        keep = torch.tensor([i for i in range(len(labels)) if i not in bad], dtype=torch.int64)
        pixels, labels = pixels[keep], labels[keep]
        skipped = f"{len(corrupt)} corrupt file{'s' if len(corrupt) > 1 else ''} skipped"
        note = f"{note}; {skipped}" if note else skipped
        for label in sorted(set(files.labels) - set(labels.tolist())):
            raise InputError(f"{path}: every {split} image of class {classes[label]!r} is corrupt: replace the files")
    return Images(pixels, labels, classes, f"folder:{path}", note=note)


def _find(root: Path) -> tuple[tuple[str, ...], dict[str, Files]]:
    """The class names, and the files of train and test."""
    if not root.is_dir():
        raise InputError(f"folder {root}: {'is a file' if root.exists() else 'there is no such folder'}: name a folder")
    train = root / "train"
    if not _folders(train):
        classes, files = _list(root)
        return classes, _divide(root, files)
    test = next((root / name for name in ("test", "val") if _folders(root / name)), None)
    if test is None:
        raise InputError(f"folder {root}: has train/ and neither test/ nor val/ with class folders: add one")
    (classes, train_files), (test_classes, test_files) = _list(train), _list(test)
    if classes != test_classes:
        lone = sorted(set(classes) ^ set(test_classes))[0]
        where = train if lone in classes else test
        raise InputError(
            f"folder {root}: class {lone!r} is in {where.name}/ only: {train.name}/ and {test.name}/ need the same classes"
        )
    return classes, {"train": train_files, "test": test_files}


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(parent) if entry.is_dir() and not entry.name.startswith("."))


def _list(parent: Path) -> tuple[tuple[str, ...], Files]:
    """The classes below a folder and their images, sorted by class and path."""
    classes = tuple(_folders(parent))
    by_class = [sorted(_walk(parent / name)) for name in classes]
    if not any(by_class):
        raise InputError(f"folder {parent}: no images in class folders: put {', '.join(EXTENSIONS)} files into them")
    if len(classes) == 1:
        raise InputError(
            f"folder {parent}: only one class, {classes[0]!r}: a classifier needs a folder for each of two"
        )
    for name, paths in zip(classes, by_class, strict=True):
        if not paths:
            raise InputError(f"folder {parent / name}: no images ({', '.join(EXTENSIONS)}): fill it or remove it")
    labels = [label for label, paths in enumerate(by_class) for _ in paths]
    return classes, Files([path for paths in by_class for path in paths], labels)


def _walk(parent: Path) -> Iterator[str]:
    for place, folders, files in os.walk(parent):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(EXTENSIONS) and not name.startswith("."):
                yield f"{place}/{name}"


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


def _choose_form(paths: Sequence[str], size: int | None, grey: bool, pool: ThreadPoolExecutor) -> Form:
    if size is not None and grey:
        return Form(size, size, 1)
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    kinds = {kind for chunk in pool.map(_headers, chunks) for kind in chunk}
    channels = 1 if grey or {channels for *_, channels in kinds} == {1} else 3
    if size is not None:
        return Form(size, size, channels)
    sizes = {(height, width) for height, width, _ in kinds}
    if len(sizes) == 1:
        return Form(*sizes.pop(), channels)
    if not sizes:
        return Form(MIXED_SIZE, MIXED_SIZE, channels)  # nothing is readable: decoding names the first file
    note = f"{len(sizes)} sizes: shorter side resized to {MIXED_SIZE}, centre crop"
    return Form(MIXED_SIZE, MIXED_SIZE, channels, note)


def _headers(paths: Sequence[str]) -> set[tuple[int, int, int]]:
    """(height, width, channels) of the images that have a readable header; channels is 1 for grey, else 3."""
    return {kind for path in paths if (kind := _header(path)) is not None}


def _header(path: str) -> tuple[int, int, int] | None:
    from PIL import Image

    try:
        with open(path, "rb") as file:
            found = _jpeg_header(file.read(4096))
            if found is not None:
                return found
            file.seek(0)
            with Image.open(file) as image:
                return image.height, image.width, 1 if image.mode in ("1", "L") else 3
    except Exception:  # whatever a damaged file makes a decoder raise: decoding will name the file
        return None


def _jpeg_header(head: bytes) -> tuple[int, int, int] | None:
    """From the frame header of a JPEG (ITU-T T.81, B.2.2), four times as fast as PIL; None where there is none in `head`."""
    at = 2 if head[:2] == b"\xff\xd8" else len(head)
    while at + 9 < len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(head[at + 5 : at + 7]), int.from_bytes(head[at + 7 : at + 9])
            return height, width, 1 if head[at + 9] == 1 else 3
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4])
    return None


def _decode(
    paths: Sequence[str], form: Form, skip_corrupt: bool, pool: ThreadPoolExecutor
) -> tuple[torch.Tensor, list[int]]:
    """All images as uint8 N,C,H,W, and the positions of those that could not be read (left as they come)."""
    from PIL import UnidentifiedImageError
    from tqdm import tqdm

    shape = (len(paths), form.channels, form.height, form.width)
    _check_memory(shape)
    pixels = numpy.empty(shape, dtype=numpy.uint8)

    def decode(start: int) -> list[tuple[int, str]]:
        failures = []
        for i, path in enumerate(paths[start : start + CHUNK], start):
            try:
                pixels[i] = _read(path, form)
            except MemoryError:
                raise
            except Exception as error:  # decoders raise whatever a damaged file leads them to
                known = not isinstance(error, UnidentifiedImageError)  # its text is a memory address
                failures.append((i, " ".join(str(error).split()) if known and str(error) else "not an image"))
        return failures

    corrupt: list[int] = []
    # Nothing is shown in the first two seconds, away from a terminal, or with TQDM_DISABLE set.
    hidden = True if os.environ.get("TQDM_DISABLE") else None
    with tqdm(total=len(paths), desc="reading images", unit="image", delay=2, leave=False, disable=hidden) as bar:
        for failures in pool.map(decode, range(0, len(paths), CHUNK)):
            bar.update(min(CHUNK, len(paths) - bar.n))
            for i, reason in failures:
                if not skip_corrupt:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise InputError(f"corrupt image {paths[i]}: {reason}: replace it, or skip it with --skip-corrupt")
                corrupt.append(i)
    return torch.from_numpy(pixels), corrupt


def _check_memory(shape: Sequence[int]) -> None:
    need = numpy.prod(shape, dtype=float)
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return
    if need > have:
        raise InputError(
            f"{shape[0]} images of {shape[2]}x{shape[3]} need {need / 1e9:.0f} GB, this machine has {have / 1e9:.0f}: "
            "make them smaller with folder:PATH(size=64)"
        )


def _read(path: str, form: Form) -> NDArray[numpy.uint8]:
    """One image as uint8 C,H,W of the form. Raises what the decoder raises."""
    from PIL import Image

    with open(path, "rb") as file:
        content = file.read()
    if content[:2] == b"\xff\xd8":
        quick = _decode_jpeg(content)
        if quick is not None and quick.shape == (form.channels, form.height, form.width):
            return quick
    with Image.open(io.BytesIO(content)) as image:
        if image.mode[0] in "IF":
            raise ValueError(f"mode {image.mode} has more than 8 bits a pixel")
        turned: Any = _resized(image.convert("L" if form.channels == 1 else "RGB"), form)
        return numpy.atleast_3d(numpy.asarray(turned)).transpose(2, 0, 1)


def _decode_jpeg(content: bytes) -> NDArray[numpy.uint8] | None:
    """torchvision's decoder: the same pixels as PIL's in half the time. None where PIL has to do it, or to say what is wrong.

    Deprecated since torchvision 0.29: where a release no longer has it, PIL reads everything.
    """
    try:
        from torchvision.io import decode_jpeg

        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8)).numpy()
    except (ImportError, RuntimeError):
        return None


def _resized(image: Any, form: Form) -> Any:
    """The shorter side resized to the form's, then the centre cut out; untouched where it has the size already."""
    from PIL import Image

    if image.size == (form.width, form.height):
        return image
    scale = max(form.width / image.width, form.height / image.height)
    width, height = max(form.width, round(image.width * scale)), max(form.height, round(image.height * scale))
    left, top = (width - form.width) // 2, (height - form.height) // 2
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + form.width, top + form.height))
