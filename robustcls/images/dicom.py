"""Reads DICOM images with pydicom (the extra `dicom`)."""

from typing import Any, BinaryIO

import numpy
from PIL import Image

from robustcls.images.formats import DICOM

RULE = "DICOM: the file's own rescaling and first window, else the whole range of its bits"


def is_dicom(path: str) -> bool:
    """Whether a file is DICOM by its extension."""
    return path.lower().endswith(DICOM)


def header(file: BinaryIO) -> tuple[int, int, int]:
    """Return (height, width, channels) of a file."""
    import pydicom

    dataset = pydicom.dcmread(file, stop_before_pixels=True)
    return int(dataset.Rows), int(dataset.Columns), 1 if int(dataset.get("SamplesPerPixel", 1)) == 1 else 3


def read(file: BinaryIO) -> Any:
    """Return the first frame as an 8-bit PIL image, grey or RGB. Raises what pydicom raises.

    Grey values pass through the file's modality and VOI look-up tables (rescale slope and intercept, the first window). The
    range that the stored bits can represent is then mapped to 0 to 255. MONOCHROME1, in which low values are bright, is
    inverted.
    """
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space

    dataset = pydicom.dcmread(file)
    stored = dataset.pixel_array
    colour = int(dataset.get("SamplesPerPixel", 1)) > 1
    if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
        stored = stored[0]
    if colour:
        if dataset.PhotometricInterpretation.startswith("YBR"):
            stored = convert_color_space(stored, dataset.PhotometricInterpretation, "RGB")
        return Image.fromarray((stored >> max(0, int(dataset.BitsStored) - 8)).astype(numpy.uint8), "RGB")
    values = apply_voi_lut(apply_modality_lut(stored, dataset), dataset, index=0).astype(numpy.float64)
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    low, high = (limit * slope + intercept for limit in limits)
    share = ((values - low) / (high - low)).clip(0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    return Image.fromarray((share * 255).round().astype(numpy.uint8))
