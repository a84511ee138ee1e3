"""Decodes image files to 8-bit pixels of one form.

Whatever is not plain 8-bit grey or colour follows one of RULES, and a note says how many images it concerns.
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.names import quoted
from robustcls.core.progress import Bar
from robustcls.data.folders import dicom
from robustcls.data.folders.form import CHUNK, Form

ORIENTATION = 0x0112  # the EXIF tag
SEVERAL = ("GIF", "TIFF", "PNG", "WEBP", "AVIF", "FLI", "DCX")  # formats whose frames are pictures of their own
DEEP, FLOAT = "16-bit grey", "float pixels"
RULES = {
    "orientation": "EXIF orientation, ignored as by torchvision",
    "turned": "an orientation by which Pillow turned it, as for torchvision's folders",
    "alpha": "transparency, dropped as by torchvision",
    "frames": "several pictures in a file, the first taken",
    "cmyk": "CMYK, converted to RGB without a colour profile",
    DEEP: f"{DEEP}, 65535 is white (divided by 257)",
    "deep colour": "16-bit colour, the upper 8 bits taken",
    FLOAT: f"{FLOAT}, 1 is white",
    "scaled": "{scale:g} is white, by scale={scale:g}",
    "clipped": "values outside 0..{scale:g}, clipped",
    "dicom": dicom.RULE,
}
COLOUR = {1: "Pillow's mode L (ITU-R 601 luma)", 3: "Pillow's mode RGB"}  # by channels, before resizing
FILTER = Image.Resampling.BILINEAR
RESIZE = f"shorter side, Pillow's {FILTER.name} filter, antialiased; not where the size is right"
CROP = "centre; of an odd surplus the larger part off the right and the bottom"
DARK = 65535 / 8  # a 16-bit set that is darker than this everywhere was made with fewer bits


Remarks = dict[
    str, float
]  # what was remarkable about an image: by the key in RULES its largest value, where that matters


class Unscaled(InputError):
    """An image whose values do not say which of them is white: not damaged, so not to be skipped."""


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


def rules_of(scale: float | None) -> dict[str, str]:
    """What is done with images that are not plain 8-bit grey or colour, where `scale` is white; by the keys of RULES."""
    other = (DEEP, FLOAT) if scale is not None else ("scaled", "clipped")
    return {key: rule.format(scale=scale) for key, rule in RULES.items() if key not in other}


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
        raise Unscaled(f"image {path}: {error}") from None
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
    if content[:2] == b"\xff\xd8":
        quick = _decode_jpeg(content)
        if quick is not None and quick.shape == (form.channels, form.height, form.width):
            if b"Exif\0\0" in content[:4096] and _is_turned(Image.open(io.BytesIO(content))):
                remarks["orientation"] = 0
            return quick
    if dicom.is_dicom(path):
        remarks["dicom"] = 0
        return _fitted(dicom.read(io.BytesIO(content)), form)
    with Image.open(io.BytesIO(content)) as image:
        if image.format in SEVERAL:
            with suppress(Exception):  # a damaged tail
                if image.n_frames > 1:  # type: ignore[attr-defined]
                    remarks["frames"] = 0
                image.seek(0)
        turn = _is_turned(image)
        image.load()  # of some formats, the size and the mode are known only now, and a TIFF is turned
        if turn:
            remarks["orientation" if _is_turned(image) else "turned"] = 0
        plain: Any = image
        if image.mode[0] in "IF":
            plain = _eight_bit(image, form.scale, remarks)
        elif _depth(image, content) > 8:
            remarks["deep colour"] = 0
        if image.mode == "CMYK":
            remarks["cmyk"] = 0
        if _is_transparent(image):
            remarks["alpha"] = 0
        return _fitted(plain, form)


def _eight_bit(image: Any, scale: float | None, remarks: Remarks) -> Any:
    """Deep or float pixels as 8-bit grey: 0 is black, `scale` white; without one 65535, or 1 of floats. Raises Unscaled."""
    values = numpy.asarray(image).astype(numpy.float64)
    whole = image.mode[0] == "I"
    white = scale or (65535.0 if whole else 1.0)
    low, high = (float(values.min()), float(values.max()))
    if not (numpy.isfinite(low) and numpy.isfinite(high)):
        raise ValueError("some of its float pixels are not numbers")
    if low < 0 or high > white:
        if scale is None:
            what = "whole numbers" if whole else "float pixels"
            raise Unscaled(
                f"{what} from {low:g} to {high:g}, not in 0..{white:g}: say which value is white, such as "
                f"folder:PATH(scale={max(high, 1):g})"
            )
        remarks["clipped"] = 0
    remarks["scaled" if scale is not None else DEEP if whole else FLOAT] = high
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(numpy.uint8))


def _depth(image: Any, content: bytes) -> int:
    """Bits per channel in the file, of PNG and TIFF; Pillow gives 8 of them for colour."""
    if image.format == "PNG" and len(content) > 24:
        return content[24]  # of the header chunk, which comes first
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, 8)
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 8


def _is_transparent(image: Any) -> bool:
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A").getextrema()[0] < 255
    return image.info.get("transparency") is not None


def _is_turned(image: Any) -> bool:
    with suppress(Exception):  # whatever a damaged EXIF block makes it raise: the pixels are what counts
        return image.getexif().get(ORIENTATION, 1) not in (0, 1)
    return False


def _decode_jpeg(content: bytes) -> NDArray[numpy.uint8] | None:
    """torchvision's decoder: the same pixels as PIL's in half the time. None where PIL has to do it, or to say what is wrong.

    Deprecated since torchvision 0.29: where a release no longer has it, PIL reads everything.
    """
    try:
        from torchvision.io import decode_jpeg

        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8)).numpy()
    except (ImportError, RuntimeError):
        return None


def _fitted(image: Any, form: Form) -> NDArray[numpy.uint8]:
    """As C,H,W of the form: the shorter side resized, then the centre cut out; untouched where it has the size already."""
    image = image.convert("L" if form.channels == 1 else "RGB")
    scale = max(form.width / image.width, form.height / image.height)
    width, height = max(form.width, round(image.width * scale)), max(form.height, round(image.height * scale))
    left, top = (width - form.width) // 2, (height - form.height) // 2
    if image.size != (form.width, form.height):
        image = image.resize((width, height), FILTER)
        image = image.crop((left, top, left + form.width, top + form.height))
    return numpy.atleast_3d(numpy.asarray(image)).transpose(2, 0, 1)
