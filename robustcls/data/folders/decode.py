"""Decodes image files to 8-bit pixels of one form.

Whatever is not plain 8-bit grey or colour follows one of RULES, and a note says how many images it concerns.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.names import quoted
from robustcls.core.progress import Bar
from robustcls.data.folders.form import CHUNK
from robustcls.images.decode import DEEP, RULES, Form, Remarks, Unscaled, decode_image, is_turned
from robustcls.images.dicom import is_dicom

DARK = 65535 / 8  # a 16-bit set that is darker than this everywhere was made with fewer bits


@dataclass
class Decoded:
    """What was decoded of a list of files; positions are those in the list."""

    pixels: Tensor  # uint8 N,C,H,W
    positions: list[int]  # N
    remarks: dict[int, Remarks] = field(default_factory=dict)  # position: what was remarkable
    failures: dict[int, str] = field(default_factory=dict)  # position: why it could not be read

    def take(self, positions: list[int]) -> "Decoded":
        """The images at these positions, in this order."""
        if positions == self.positions:
            return self
        rows = {position: row for row, position in enumerate(self.positions)}
        return replace(self, pixels=self.pixels[[rows[position] for position in positions]], positions=positions)

    def joined(self, then: "Decoded") -> "Decoded":
        pixels, positions = torch.cat([self.pixels, then.pixels]), self.positions + then.positions
        return Decoded(pixels, positions, self.remarks | then.remarks, self.failures | then.failures)


def decode(paths: Sequence[str], positions: list[int], form: Form, pool: ThreadPoolExecutor) -> Decoded:
    """The files at these positions, in this order; the pixels of those that cannot be read mean nothing. Raises InputError."""
    shape = (len(positions), form.channels, form.height, form.width)
    check_memory(shape)
    pixels = numpy.empty(shape, dtype=numpy.uint8)
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
    """What a reader must know of the images that were decoded. names: of the files, by position."""
    notes, remarks = [], {i: decoded.remarks[i] for i in decoded.positions if i in decoded.remarks}
    for key, rule in RULES.items():
        if its := [i for i, remark in remarks.items() if key in remark]:
            what = f"{len(its)} image{'s' if len(its) > 1 else ''} with {rule.format(scale=scale or 1)}"
            notes.append(f"{what}, such as {quoted(names[its[0]])}")
    top = max((remark.get(DEEP, 0.0) for remark in remarks.values()), default=0.0)
    if 0 < top < DARK:
        white = next(2**bits - 1 for bits in (8, 10, 12, 14) if top < 2**bits)
        notes.append(
            f"their largest value is {top:.0f}, so that few grey levels are left: "
            f"folder:PATH(scale={white}) makes {white} white"
        )
    return notes


def check_memory(shape: Sequence[int]) -> None:
    """Raises InputError where pixels of this shape do not fit into the machine's memory."""
    need = numpy.prod(shape, dtype=float)
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not known on this system
        return
    if need > have:
        raise InputError(
            f"{shape[0]} images of {shape[2]}x{shape[3]} need {need / 1e9:.0f} GB, this machine has {have / 1e9:.0f}: "
            "take fewer with `n`, or make them smaller with folder:PATH(size=64)"
        )


def _try(path: str, form: Form, into: NDArray[numpy.uint8]) -> Remarks | str:
    """Fills in the pixels of one file, or says why it cannot be read."""
    remarks: Remarks = {}
    try:
        into[:] = _read(path, form, remarks)
    except Unscaled as error:
        how = f"say which value is white, such as folder:PATH(scale={error.largest:g})"
        raise Unscaled(f"image {path}: {error}: {how}", error.largest) from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        known = not isinstance(error, UnidentifiedImageError)  # its text is a memory address
        return " ".join(str(error).split()) if known and str(error) else "not an image"
    return remarks


def _read(path: str, form: Form, remarks: Remarks) -> NDArray[numpy.uint8]:
    """One image as uint8 C,H,W of the form. Raises what the decoder raises."""
    with open(path, "rb") as file:
        content = file.read()
    if content[:3] == b"\xff\xd8\xff":  # as Pillow knows a JPEG
        quick = _decode_jpeg(content)
        if quick is not None and quick.shape == (form.channels, form.height, form.width):
            if b"Exif\0\0" in content[:4096] and is_turned(Image.open(io.BytesIO(content))):
                remarks["orientation"] = 0
            return quick
    return decode_image(content, form, remarks, is_dicom=is_dicom(path))


def _decode_jpeg(content: bytes) -> NDArray[numpy.uint8] | None:
    """torchvision's decoder: the same pixels as PIL's in half the time. None where PIL has to do it, or to say what is wrong.

    Deprecated since torchvision 0.29: where a release no longer has it, PIL reads everything.
    """
    try:
        from torchvision.io import decode_jpeg

        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8)).numpy()
    except (ImportError, RuntimeError):
        return None
