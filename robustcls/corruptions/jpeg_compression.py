"""JPEG compression."""

from io import BytesIO

from PIL import Image
from torch import Generator, Tensor

from robustcls.corruptions._pictures import through_pillow
from robustcls.corruptions._severity import strength


def jpeg_compression(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Through a JPEG of low quality and back; draws nothing."""
    quality = strength(x, severity, small=(80, 65, 58, 50, 40), large=(25, 18, 15, 10, 7))

    def change(image: Image.Image) -> Image.Image:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return through_pillow(x, change)
