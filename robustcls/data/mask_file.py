"""The mask of an attack from an image file."""

from pathlib import Path

import numpy
import torch
from PIL import Image

from robustcls.core.errors import InputError, as_input_error
from robustcls.core.mask import Mask

WHITE = 128  # of 255: what is as light or lighter may change


def read_mask(path: str | Path | None) -> Mask | None:
    """The pixels that are white in an image file, where each grey value of 128 or more of 255 counts; None of None.

    Transparent pixels are those of the image laid on black, so that what is fully transparent may not change, whatever colour
    it hides.

    Raises InputError for what is no image, and for one of more than 8 bits a value, or without white pixels.
    """
    if path is None:
        return None
    file = Path(path)
    if not file.is_file():
        raise InputError(f"mask {path} is no file: give an image, such as a PNG, white where pixels may change")
    with as_input_error(f"mask {path} is no image"), Image.open(file) as image:
        deep = image.mode.startswith(("I", "F"))  # which the conversion would cut off at 255
        coloured = image.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", coloured.size, "black"), coloured)
        grey = numpy.array(shown.convert("L"))
    if deep:
        raise InputError(f"mask {path} has more than 8 bits a value: save it with 8, white where pixels may change")
    return Mask(torch.from_numpy(grey >= WHITE), name=f"mask {file.name}")
