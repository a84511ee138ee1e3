"""Which files are images, by their endings: what Pillow reads, and DICOM and HEIC where their extras are installed."""

import importlib.util
import os
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

NOT_IMAGES = {
    "EPS",
    "MPEG",
    "BUFR",
    "GRIB",
    "HDF5",
    "IPTC",
    "WMF",
    "PDF",
}  # documents, films, and stubs without a decoder
DICOM = (".dcm", ".dicom")
HEIC = (".heic", ".heif", ".hif")


@cache
def endings() -> frozenset[str]:
    """The endings, in lower case, with their dots."""
    from PIL import Image

    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    known = {ending.lower() for ending, kind in Image.registered_extensions().items() if _is_image(kind)}
    return frozenset(known | (set(DICOM) if importlib.util.find_spec("pydicom") else set()))


def _is_image(kind: str) -> bool:
    from PIL import Image

    return (kind in Image.OPEN or kind == "MPO") and kind not in NOT_IMAGES  # MPO: read as a JPEG


def how_to_read(paths: Iterable[str]) -> str:
    """The command that lets files be read that were passed over for their ending; "" where there is none."""
    missing = {os.path.splitext(path)[1].lower() for path in paths} - endings()
    commands = []
    if missing.intersection(DICOM):
        commands.append('DICOM is read after pip install "robustcls[dicom]"')
    if missing.intersection(HEIC):
        commands.append('HEIC is read after pip install "robustcls[heic]"')
    return f" ({'; '.join(commands)})" if commands else ""
