"""Decodes an encoded image, from a folder or sent to a service, to 8-bit pixels of a given form.

Images that are not plain 8-bit grey or colour are converted by RULES.
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
SEVERAL = ("GIF", "TIFF", "PNG", "WEBP", "AVIF", "FLI", "DCX")  # formats whose frames are separate pictures
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
# By the lower-case names of Pillow's constants, which all its versions have.
FILTERS = {
    name: Image.Resampling[name.upper()] for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
}
CROP = "centre; of an odd surplus the larger part off the right and the bottom"
CROP_AFTER = "centre, its offset rounded to the nearest whole number, halves to the even one, as by torchvision"


# The rules that apply to an image: keys of RULES, each with the image's largest value where the rule needs it, else 0.
Remarks = dict[str, float]


class Form(NamedTuple):
    """The size and number of channels that every image is converted to, and how. Images of the right size are not resized.

    scale: the value of 16-bit and float images that becomes white; None for the default. resize: length of the shorter side
    before the centre crop; None for the smallest that covers the crop. filter: a key of FILTERS.
    """

    height: int
    width: int
    channels: int
    scale: float | None = None
    note: str = ""
    resize: int | None = None
    filter: str = "bilinear"

    @property
    def resizing(self) -> str:
        """A description of how images of another size are resized before the crop."""
        sides = (
            f"shorter side to {self.resize}, the longer rounded down as by torchvision"
            if self.resize
            else "shorter side"
        )
        return f"{sides}, Pillow's {self.filter.upper()} filter, antialiased; not where the size is right"

    @property
    def crop(self) -> str:
        """A description of the crop."""
        return CROP_AFTER if self.resize else CROP


class Unscaled(InputError):
    """It is not known which value of an image is white. The image is not damaged and must not be skipped.

    largest: its largest value, but at least 1.
    """

    def __init__(self, text: str, largest: float) -> None:
        super().__init__(text)
        self.largest = largest


def decode_image(
    content: bytes, form: Form, remarks: Remarks, *, is_dicom: bool = False, formats: Sequence[str] | None = None
) -> NDArray[numpy.uint8]:
    """Decode the content of an image file to uint8 C,H,W.

    Args:
        content: of the file.
        form: size, number of channels and conversion.
        remarks: dictionary to which the rules that were applied are added, by the keys of RULES.
        is_dicom: read it with pydicom instead of Pillow.
        formats: Pillow's names of the allowed formats; None for any.

    Raises:
        Unscaled: where it is not known which value is white.
        Exception: any exception of the decoder, for a damaged file.
    """
    if is_dicom:
        remarks["dicom"] = 0
        return _fitted(dicom.read(io.BytesIO(content)), form)
    with Image.open(io.BytesIO(content), formats=formats if formats is None else list(formats)) as image:
        if image.format in SEVERAL:
            with suppress(Exception):  # later frames may be damaged
                if image.n_frames > 1:  # type: ignore[attr-defined]
                    remarks["frames"] = 0
                image.seek(0)
        turn = is_turned(image)
        image.load()  # some formats have their size and mode only now, and Pillow rotates TIFFs here
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
    """Convert 16-bit or float pixels to 8-bit grey: 0 is black; white is `scale`, by default 65535, or 1 for floats.

    Raises Unscaled for values outside this range without `scale`.
    """
    values = numpy.asarray(image).astype(numpy.float64)
    whole = image.mode[0] == "I"
    white = scale or (65535.0 if whole else 1.0)
    low, high = (float(values.min()), float(values.max()))
    if not (numpy.isfinite(low) and numpy.isfinite(high)):
        raise ValueError("some of its float pixels are not numbers")
    if low < 0 or high > white:
        if scale is None:
            kind = "whole numbers" if whole else "float pixels"
            raise Unscaled(f"{kind} from {low:g} to {high:g}, not in 0..{white:g}", max(high, 1))
        remarks["clipped"] = 0
    remarks["scaled" if scale is not None else DEEP if whole else FLOAT] = high
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(numpy.uint8))


def _depth(image: Any, content: bytes) -> int:
    """Return the bits per channel in a PNG or TIFF file, 8 for other formats. Pillow reads only 8 of them in colour images."""
    if image.format == "PNG" and len(content) > 24:
        return content[24]  # a field of the header chunk, which comes first
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, 8)
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 8


def _is_transparent(image: Any) -> bool:
    if image.mode in ("RGBA", "LA", "PA"):
        return image.getchannel("A").getextrema()[0] < 255
    return image.info.get("transparency") is not None


def is_turned(image: Any) -> bool:
    """Whether the image has an EXIF orientation other than the normal one."""
    with suppress(Exception):  # a damaged EXIF block can raise anything, and the pixels may be intact
        return image.getexif().get(ORIENTATION, 1) not in (0, 1)
    return False


def rules_of(scale: float | None) -> dict[str, str]:
    """Return the texts of RULES that can apply with the white value `scale`, filled in, by key."""
    other = (DEEP, FLOAT) if scale is not None else ("scaled", "clipped")
    return {key: rule.format(scale=scale) for key, rule in RULES.items() if key not in other}


def _fitted(image: Any, form: Form) -> NDArray[numpy.uint8]:
    """Return an image as C,H,W of the form: shorter side resized, then centre crop; not changed where it has the size."""
    image = image.convert("L" if form.channels == 1 else "RGB")
    if image.size != (form.width, form.height):
        if form.resize:  # as torchvision's Resize and CenterCrop
            shorter = min(image.size)
            width, height = (int(form.resize * side / shorter) for side in image.size)
            left, top = round((width - form.width) / 2), round((height - form.height) / 2)
        else:
            scale = max(form.width / image.width, form.height / image.height)
            width, height = max(form.width, round(image.width * scale)), max(form.height, round(image.height * scale))
            left, top = (width - form.width) // 2, (height - form.height) // 2
        image = image.resize((width, height), FILTERS[form.filter])
        image = image.crop((left, top, left + form.width, top + form.height))
    return numpy.atleast_3d(numpy.asarray(image)).transpose(2, 0, 1)
