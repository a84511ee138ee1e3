"""Decodes image files to 8-bit pixels of the same form: size and number of channels.

Images that are not plain 8-bit grey or colour are converted by RULES, and a note says how many images each rule concerns.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from robustcls.core.names import quoted
from robustcls.core.progress import Bar
from robustcls.data.folders.form import CHUNK
from robustcls.images.decode import DEEP, RULES, Form, Remarks, Unscaled, decode_image, is_turned
from robustcls.images.dicom import is_dicom
from robustcls.runtime.stored import empty_pixels

DARK = 65535 / 8  # 16-bit images whose largest value is below this were recorded with fewer bits


@dataclass
class Decoded:
    """The decoded images of a list of files. Positions are those in the list."""

    pixels: Tensor  # uint8 N,C,H,W
    positions: list[int]  # N
    remarks: dict[int, Remarks] = field(default_factory=dict)  # position -> the rules that were applied
    failures: dict[int, str] = field(default_factory=dict)  # position -> why the file could not be read

    def take(self, positions: list[int]) -> "Decoded":
        """Return the images at these positions, in this order."""
        if positions == self.positions:
            return self
        rows = {position: row for row, position in enumerate(self.positions)}
        return replace(self, pixels=_copied([(self.pixels, [rows[one] for one in positions])]), positions=positions)

    def joined(self, other: "Decoded") -> "Decoded":
        """Return these images followed by others."""
        pixels = _copied([(one.pixels, range(len(one.positions))) for one in (self, other)])
        positions = self.positions + other.positions
        return Decoded(pixels, positions, self.remarks | other.remarks, self.failures | other.failures)


def decode(paths: Sequence[str], positions: list[int], form: Form, pool: ThreadPoolExecutor) -> Decoded:
    """Decode the files at these positions, in this order. Raises InputError.

    Files that cannot be read are in `failures`; their pixels are undefined.
    """
    pixels = empty_pixels((len(positions), form.channels, form.height, form.width))
    decoded = Decoded(torch.from_numpy(pixels), positions)

    def decode_chunk(start: int) -> int:
        chunk = positions[start : start + CHUNK]
        for row, position in enumerate(chunk, start):
            outcome = _try(paths[position], form, pixels[row])
            if isinstance(outcome, str):
                decoded.failures[position] = outcome
            elif outcome:
                decoded.remarks[position] = outcome
        return len(chunk)

    try:
        with Bar(len(positions), "reading images", "image") as bar:
            for count in pool.map(decode_chunk, range(0, len(positions), CHUNK)):
                bar.advance(count)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    decoded.failures = dict(sorted(decoded.failures.items()))
    return decoded


def describe(decoded: Decoded, names: Sequence[str], scale: float | None) -> list[str]:
    """Return notes on how the images were converted. names: of the files, by position."""
    notes, remarks = [], {i: decoded.remarks[i] for i in decoded.positions if i in decoded.remarks}
    for key, rule in RULES.items():
        if concerned := [i for i, remark in remarks.items() if key in remark]:
            count = f"{len(concerned)} image{'s' if len(concerned) > 1 else ''}"
            notes.append(f"{count} with {rule.format(scale=scale or 1)}, such as {quoted(names[concerned[0]])}")
    top = max((remark.get(DEEP, 0.0) for remark in remarks.values()), default=0.0)
    if 0 < top < DARK:
        white = next(2**bits - 1 for bits in (8, 10, 12, 14) if top < 2**bits)
        notes.append(
            f"their largest value is {top:.0f}, so that few grey levels are left: "
            f"folder:PATH(scale={white}) makes {white} white"
        )
    return notes


def _copied(parts: Sequence[tuple[Tensor, Sequence[int]]]) -> Tensor:
    """Copy some rows of each of several tensors of pixels into a new one, which may be stored in a file like them."""
    pixels = torch.from_numpy(empty_pixels((sum(len(rows) for _, rows in parts), *parts[0][0].shape[1:])))
    at = 0
    for source, rows in parts:
        for start in range(0, len(rows), CHUNK):
            some = list(rows[start : start + CHUNK])
            pixels[at : at + len(some)] = source[some]
            at += len(some)
    return pixels


def _try(path: str, form: Form, into: NDArray[numpy.uint8]) -> Remarks | str:
    """Write the pixels of one file into `into`. Return remarks on its conversion, or a text that says why it cannot be read."""
    remarks: Remarks = {}
    try:
        into[:] = _read(path, form, remarks)
    except Unscaled as error:
        how = f"say which value is white, such as folder:PATH(scale={error.largest:g})"
        raise Unscaled(f"image {path}: {error}: {how}", error.largest) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        known = not isinstance(error, UnidentifiedImageError)  # the text of this one is a memory address
        return " ".join(str(error).split()) if known and str(error) else "not an image"
    return remarks


def _read(path: str, form: Form, remarks: Remarks) -> NDArray[numpy.uint8]:
    """Read one image as uint8 C,H,W of the form. Raises what the decoder raises."""
    with open(path, "rb") as file:
        content = file.read()
    if content[:3] == b"\xff\xd8\xff":  # the signature by which Pillow recognises a JPEG
        pixels = _decode_jpeg(content)
        if pixels is not None and pixels.shape == (form.channels, form.height, form.width):
            if b"Exif\0\0" in content[:4096] and is_turned(Image.open(io.BytesIO(content))):
                remarks["orientation"] = 0
            return pixels
    return decode_image(content, form, remarks, is_dicom=is_dicom(path))


def _decode_jpeg(content: bytes) -> NDArray[numpy.uint8] | None:
    """Decode a JPEG with torchvision: the same pixels as from PIL, in half the time. None where PIL has to read it.

    The decoder is deprecated since torchvision 0.29. Releases without it read everything with PIL.
    """
    try:
        from torchvision.io import decode_jpeg

        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8)).numpy()
    except (ImportError, RuntimeError):
        return None
