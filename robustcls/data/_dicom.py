"""DICOM images, with pydicom (the extra `dicom`)."""

from typing import Any, BinaryIO

import numpy

from robustcls.data._endings import DICOM

RULE = "DICOM: the file's own rescaling and first window, else the whole range of its bits"


def is_dicom(path: str) -> bool:
    return path.lower().endswith(DICOM)


def header(file: BinaryIO) -> tuple[int, int, int]:
    """(height, width, channels) of a file."""
    import pydicom

    found = pydicom.dcmread(file, stop_before_pixels=True)
    return int(found.Rows), int(found.Columns), 1 if int(found.get("SamplesPerPixel", 1)) == 1 else 3


def read(file: BinaryIO) -> Any:
    """The first frame as a PIL image of 8 bits, grey or RGB. Raises what pydicom raises.

    Grey values go through the file's modality and VOI look-up (rescale slope and intercept, the first window), and the range
    that the stored bits can reach becomes 0 to 255; MONOCHROME1, where low values are bright, is inverted.
    """
    import pydicom
    from PIL import Image
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space

    found = pydicom.dcmread(file)
    stored = found.pixel_array
    colour = int(found.get("SamplesPerPixel", 1)) > 1
    if int(found.get("NumberOfFrames", 1) or 1) > 1:
        stored = stored[0]
    if colour:
        if found.PhotometricInterpretation.startswith("YBR"):
            stored = convert_color_space(stored, found.PhotometricInterpretation, "RGB")
        return Image.fromarray((stored >> max(0, int(found.BitsStored) - 8)).astype(numpy.uint8), "RGB")
    values = apply_voi_lut(apply_modality_lut(stored, found), found, index=0).astype(numpy.float64)
    low, high = _range(found)
    share = ((values - low) / (high - low)).clip(0, 1)
    if found.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    return Image.fromarray((share * 255).round().astype(numpy.uint8))


def _range(found: Any) -> tuple[float, float]:
    """The values that the stored bits can reach, rescaled."""
    bits, signed = int(found.BitsStored), int(found.PixelRepresentation) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope, intercept = float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))
    return low * slope + intercept, high * slope + intercept
