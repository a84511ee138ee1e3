"""The file formats that count as images: those of Pillow, and DICOM and HEIC where their extras are installed."""

import importlib.util
from contextlib import suppress
from functools import cache

from PIL import Image

NOT_IMAGES = {"EPS", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC", "WMF", "PDF"}  # documents, films, stubs without a decoder
DICOM, HEIC = (".dcm", ".dicom"), (".heic", ".heif", ".hif")


@cache
def endings() -> dict[str, str]:
    """Return the file extensions of images, in lower case with their dots, and the format of each."""
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    readable = (set(Image.OPEN) | {"MPO"}) - NOT_IMAGES  # MPO: read as a JPEG
    known = {ending.lower(): kind for ending, kind in Image.registered_extensions().items() if kind in readable}
    return known | (dict.fromkeys(DICOM, "DICOM") if importlib.util.find_spec("pydicom") else {})


def formats() -> list[str]:
    """Return the names of the image formats: Pillow's, and DICOM."""
    return sorted(set(endings().values()))
