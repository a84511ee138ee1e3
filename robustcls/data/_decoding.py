"""Files to 8-bit pixels of one form, by stated rules.

Whatever is not plain 8-bit grey or colour is said, with how many images it concerns: transparency is dropped and an EXIF
orientation ignored, as torchvision does (but Pillow turns a TIFF, and that is said); of several pictures in a file
the first is taken; CMYK is converted without a profile; 16-bit grey is divided by 257, float pixels are taken from [0, 1].
"""

import io
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from robustcls.core.errors import InputError
from robustcls.core.names import some_of
from robustcls.core.progress import Bar
from robustcls.data import _dicom
from robustcls.data._form import CHUNK, Form

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
    "dicom": _dicom.RULE,
}
DARK = 65535 / 8  # a 16-bit set that is darker than this everywhere was made with fewer bits


class Unscaled(InputError):
    """An image whose values do not say which of them is white: not damaged, so not to be skipped."""


@dataclass
class Decoded:
    """Pixels of the files asked for, uint8 N,C,H,W, and what befell."""

    pixels: torch.Tensor
    failures: dict[int, str] = field(default_factory=dict)  # position: why it could not be read
    remarks: dict[str, list[int]] = field(default_factory=dict)  # key of RULES: positions
    top: float = 0.0  # the largest value of 16-bit images


def decode(paths: Sequence[str], form: Form, pool: ThreadPoolExecutor) -> Decoded:
    """All files, in their order; those that cannot be read are left as they come. Raises InputError."""
    shape = (len(paths), form.channels, form.height, form.width)
    check_memory(shape)
    pixels = numpy.empty(shape, dtype=numpy.uint8)

    def some(start: int) -> list[tuple[int, "_Read | str"]]:
        return [(i, _try(path, form, pixels[i])) for i, path in enumerate(paths[start : start + CHUNK], start)]

    failures: dict[int, str] = {}
    remarks: dict[str, list[int]] = defaultdict(list)
    top = 0.0
    try:
        with Bar(len(paths), "reading images", "image") as bar:
            for found in pool.map(some, range(0, len(paths), CHUNK)):
                bar.advance(len(found))
                for i, what in found:
                    if isinstance(what, str):
                        failures[i] = what
                        continue
                    top = max(top, what.top)
                    for remark in what.remarks:
                        remarks[remark].append(i)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return Decoded(torch.from_numpy(pixels), failures, dict(remarks), top)


def describe(found: Decoded, names: Sequence[str], scale: float | None) -> list[str]:
    """What a reader must know of the images that were decoded. names: of the files, by position."""
    notes = []
    for key, rule in RULES.items():
        if rows := found.remarks.get(key):
            said = rule.format(scale=scale or 1)
            notes.append(
                f"{len(rows)} image{'s' if len(rows) > 1 else ''} with {said}, such as {some_of([names[rows[0]]])}"
            )
    if 0 < found.top < DARK:
        bits = next(bits for bits in (8, 10, 12, 14) if found.top < 2**bits)
        notes.append(
            f"their largest value is {found.top:.0f}, so that few grey levels are left: "
            f"folder:PATH(scale={2**bits - 1}) makes {2**bits - 1} white"
        )
    return notes


def check_memory(shape: Sequence[int]) -> None:
    """Raises InputError where pixels of this shape do not fit into the machine's memory."""
    need = numpy.prod(shape, dtype=float)
    try:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not told on this system
        return
    if need > have:
        raise InputError(
            f"{shape[0]} images of {shape[2]}x{shape[3]} need {need / 1e9:.0f} GB, this machine has {have / 1e9:.0f}: "
            "take fewer with --n, or make them smaller with folder:PATH(size=64)"
        )


@dataclass
class _Read:
    """What was remarkable about one image."""

    remarks: list[str]
    top: float = 0.0


def _try(path: str, form: Form, into: NDArray[numpy.uint8]) -> "_Read | str":
    """Fills in the pixels of one file, or says why it cannot be read."""
    from PIL import UnidentifiedImageError

    found = _Read([])
    try:
        into[:] = _read(path, form, found)
    except Unscaled as error:
        raise Unscaled(f"image {path}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        known = not isinstance(error, UnidentifiedImageError)  # its text is a memory address
        return " ".join(str(error).split()) if known and str(error) else "not an image"
    return found


def _read(path: str, form: Form, found: _Read) -> NDArray[numpy.uint8]:
    """One image as uint8 C,H,W of the form. Raises what the decoder raises."""
    from PIL import Image

    with open(path, "rb") as file:
        content = file.read()
    if content[:2] == b"\xff\xd8":
        quick = _decode_jpeg(content)
        if quick is not None and quick.shape == (form.channels, form.height, form.width):
            if b"Exif\0\0" in content[:4096] and _is_turned(Image.open(io.BytesIO(content))):
                found.remarks.append("orientation")
            return quick
    if _dicom.is_dicom(path):
        found.remarks.append("dicom")
        return _array(_resized(_dicom.read(io.BytesIO(content)).convert("L" if form.channels == 1 else "RGB"), form))
    with Image.open(io.BytesIO(content)) as image:
        if image.format in SEVERAL:
            with suppress(Exception):  # a damaged tail
                if image.n_frames > 1:  # type: ignore[attr-defined]
                    found.remarks.append("frames")
                image.seek(0)
        turn = _is_turned(image)
        image.load()  # of some formats, the size and the mode are known only now, and a TIFF is turned
        if turn:
            found.remarks.append("orientation" if _is_turned(image) else "turned")
        plain: Any = image
        if image.mode[0] in "IF":
            plain = _eight_bit(image, form.scale, found)
        elif _depth(image, content) > 8:
            found.remarks.append("deep colour")
        if image.mode == "CMYK":
            found.remarks.append("cmyk")
        if _is_transparent(image):
            found.remarks.append("alpha")
        return _array(_resized(plain.convert("L" if form.channels == 1 else "RGB"), form))


def _array(image: Any) -> NDArray[numpy.uint8]:
    return numpy.atleast_3d(numpy.asarray(image)).transpose(2, 0, 1)


def _eight_bit(image: Any, scale: float | None, found: _Read) -> Any:
    """Deep or float pixels as 8-bit grey: 0 is black, `scale` white; without one 65535, or 1 of floats. Raises Unscaled."""
    from PIL import Image

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
        found.remarks.append("clipped")
    if scale is not None:
        found.remarks.append("scaled")
    else:
        found.remarks.append(DEEP if whole else FLOAT)
        found.top = high if whole else 0.0
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(numpy.uint8))


def _depth(image: Any, content: bytes) -> int:
    """Bits a channel in the file, of PNG and TIFF; Pillow gives 8 of them for colour."""
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
