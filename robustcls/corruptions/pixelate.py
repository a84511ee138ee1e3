"""Pixelate: a low resolution."""

from PIL import Image
from torch import Generator, Tensor

from robustcls.corruptions._pictures import through_pillow
from robustcls.corruptions._severity import strength


def pixelate(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Shrinks the image by means over boxes, and enlarges it again; draws nothing."""
    share = strength(x, severity, small=(0.95, 0.9, 0.85, 0.75, 0.65), large=(0.6, 0.5, 0.4, 0.3, 0.25))

    def change(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = Image.Resampling.BOX
        return image.resize((int(width * share), int(height * share)), box).resize((width, height), box)

    return through_pillow(x, change)
