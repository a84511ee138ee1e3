"""Chooses the one size and number of channels for all images of a folder, from their headers."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from robustcls.core.errors import InputError, unknown
from robustcls.images import dicom
from robustcls.images.decode import FILTERS, Form

MIXED_SIZE = 224  # side in pixels for images of several sizes, as is usual for ImageNet
CHUNK = 256  # images per task: large enough that the overhead of the thread pool does not matter
FIRST = 32  # headers that are read first where the size is given and only the number of channels is open
ROUND = 32  # tasks between two checks whether the remaining headers can still change the form


def choose_form(
    paths: Sequence[str], size: int | None, grey: bool, scale: float | None, pool: ThreadPoolExecutor
) -> Form:
    """Choose the form: one channel where all images are grey, and `size`, or their common size, or else MIXED_SIZE."""
    if size is not None and (grey or any((_header(path) or (0, 0, 1))[2] == 3 for path in paths[:FIRST])):
        return Form(size, size, 1 if grey else 3, scale)
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    kinds: set[tuple[int, int, int]] = set()
    for start in range(0, len(chunks), ROUND):
        kinds.update(
            *pool.map(lambda chunk: {kind for path in chunk if (kind := _header(path))}, chunks[start : start + ROUND])
        )
        if size is not None and any(channels == 3 for *_, channels in kinds):
            break  # the rest cannot change the form
    channels = 1 if grey or {channels for *_, channels in kinds} == {1} else 3
    if size is not None:
        return Form(size, size, channels, scale)
    sizes = {(height, width) for height, width, _ in kinds}
    if len(sizes) == 1:
        return Form(*sizes.pop(), channels, scale)
    # Without any size, no header could be read; decoding will name the files.
    note = f"{len(sizes)} sizes: shorter side resized to {MIXED_SIZE}, centre crop" if sizes else ""
    return Form(MIXED_SIZE, MIXED_SIZE, channels, scale, note)


def check_form(size: int | None, resize: int | None, filter: str) -> None:
    """Raise InputError for options of a folder that do not go together."""
    if filter not in FILTERS:
        raise unknown("filter", filter, FILTERS)
    if resize is not None and size is None:
        raise InputError(f"folder: resize={resize} needs the size that is cut out of it: give size, such as size=224")
    if resize is not None and size is not None and resize < size:
        raise InputError(f"folder: resize={resize} is below size={size}, which is cut out of it: give {size} or more")


def _header(path: str) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of an image, with 1 channel for grey, else 3; None where its header cannot be read."""
    try:
        with open(path, "rb") as file:
            if (size := _jpeg_header(file.read(4096))) is not None:
                return size
            file.seek(0)
            if dicom.is_dicom(path):
                return dicom.header(file)
            with Image.open(file) as image:
                return image.height, image.width, 1 if image.mode in ("1", "L") or image.mode[0] in "IF" else 3
    except Exception:  # a damaged file can make a decoder raise anything; decoding will name the file
        return None


def _jpeg_header(head: bytes) -> tuple[int, int, int] | None:
    """Read (height, width, channels) from the frame header of a JPEG (ITU-T T.81, B.2.2), four times as fast as PIL.

    None where `head`, the first bytes of the file, does not contain it.
    """
    at = 2 if head[:2] == b"\xff\xd8" else len(head)
    while at + 9 < len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = int.from_bytes(head[at + 5 : at + 7]), int.from_bytes(head[at + 7 : at + 9])
            return height, width, 1 if head[at + 9] == 1 else 3
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[at + 2 : at + 4])
    return None
