"""Reads the mask of an attack from an image file."""

from pathlib import Path

import numpy
import torch
from PIL import Image

from robustcls.core.errors import InputError, as_input_error
from robustcls.core.mask import Mask

WHITE = 128  # of 255: pixels with at least this grey value may change


def read_mask(path: str | Path | None) -> Mask | None:
    """Return the mask of the white pixels of an image file: those with a grey value of 128 or more of 255. None for None.

    Transparent images are composited on black, so that fully transparent pixels may not change, whatever their hidden colour.

    Raises InputError for a file that is not an image, for more than 8 bits per value, and for an image without white pixels.
    """
    if path is None:
        return None
    file = Path(path)
    if not file.is_file():
        raise InputError(f"mask {path} is not a file: give an image, such as a PNG, white where pixels may change")
    with as_input_error(f"mask {path} is not an image"), Image.open(file) as image:
        deep = image.mode.startswith(("I", "F"))  # the conversion below would clip these values at 255
        coloured = image.convert("RGBA")
        shown = Image.alpha_composite(Image.new("RGBA", coloured.size, "black"), coloured)
        grey = numpy.array(shown.convert("L"))
    if deep:
        raise InputError(f"mask {path} has more than 8 bits a value: save it with 8, white where pixels may change")
    return Mask(torch.from_numpy(grey >= WHITE), name=f"mask {file.name}")
