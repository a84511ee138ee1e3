"""Decodes one encoded image to 8-bit pixels of one form: of a folder of images, or sent to a service.

Whatever is not plain 8-bit grey or colour follows one of RULES.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray
from PIL import Image

from robustcls.core.errors import InputError
from robustcls.images import dicom

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


Remarks = dict[
    str, float
]  # what was remarkable about an image: by the key in RULES its largest value, where that matters


class Form(NamedTuple):
    """What every image is turned into. scale: the value of 16-bit and float images that becomes white; None: the usual."""

    height: int
    width: int
    channels: int
    scale: float | None = None
    note: str = ""


class Unscaled(InputError):
    """An image whose values do not say which of them is white: not damaged, so not to be skipped.

    largest: of its values, and 1 at least.
    """

    def __init__(self, text: str, largest: float) -> None:
        super().__init__(text)
        self.largest = largest


def decode_image(
    content: bytes, form: Form, remarks: Remarks, *, is_dicom: bool = False, formats: Sequence[str] | None = None
) -> NDArray[numpy.uint8]:
    """The content of an image file as uint8 C,H,W of the form.

    Args:
        content: of the file.
        form: what it is turned into.
        remarks: is told what was remarkable about it, by the keys of RULES.
        is_dicom: read it by pydicom; else by Pillow.
        formats: Pillow's names of those that it may be of; None: any.

    Raises:
        Unscaled: where its values do not say which of them is white.
        Exception: what the decoder raises of a damaged file.
    """
    if is_dicom:
        remarks["dicom"] = 0
        return _fitted(dicom.read(io.BytesIO(content)), form)
    with Image.open(io.BytesIO(content), formats=formats if formats is None else list(formats)) as image:
        if image.format in SEVERAL:
            with suppress(Exception):  # a damaged tail
                if image.n_frames > 1:  # type: ignore[attr-defined]
                    remarks["frames"] = 0
                image.seek(0)
        turn = is_turned(image)
        image.load()  # of some formats, the size and the mode are known only now, and a TIFF is turned
        if turn:
            remarks["orientation" if is_turned(image) else "turned"] = 0
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
            raise Unscaled(f"{what} from {low:g} to {high:g}, not in 0..{white:g}", max(high, 1))
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


def is_turned(image: Any) -> bool:
    with suppress(Exception):  # whatever a damaged EXIF block makes it raise: the pixels are what counts
        return image.getexif().get(ORIENTATION, 1) not in (0, 1)
    return False


def rules_of(scale: float | None) -> dict[str, str]:
    """What is done with images that are not plain 8-bit grey or colour, where `scale` is white; by the keys of RULES."""
    other = (DEEP, FLOAT) if scale is not None else ("scaled", "clipped")
    return {key: rule.format(scale=scale) for key, rule in RULES.items() if key not in other}


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
