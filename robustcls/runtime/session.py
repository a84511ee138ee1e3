"""Runs ONNX files with onnxruntime, and checks that an artefact gives the same logits here as where it was exported.

This module works without PyTorch.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.core.processor import cpu_flags
from robustcls.results.artefact import MANIFEST, MODEL, REFERENCE, Manifest

CPU = "CPUExecutionProvider"
BATCH = 32  # reference images at a time
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)

Run = Callable[[NDArray[numpy.float32]], NDArray[numpy.float32]]  # images N,C,H,W in [0, 1] to logits N,K


def open_session(path: str | Path, threads: int, providers: Iterable[str] = (CPU,), *, spin: bool = True) -> Any:
    """Open an onnxruntime.InferenceSession. Raises InputError.

    threads: number of threads that it computes on. spin: let idle threads wait actively, which is faster, but keeps processors
    from other work.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path} needs onnxruntime: pip install 'robustcls[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.log_severity_level = 3  # errors only: it warns about every weight that it prunes
    there = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[one for one in providers if one in there])
    except Exception as error:  # its exceptions have no common base class
        reason = " ".join(str(error).split())
        raise InputError(f"cannot read {path}: {reason:.160}: export it again") from None


class OtherLogits(InputError):
    """The reference logits of an artefact are not reproduced; `largest` is the largest difference."""

    def __init__(self, text: str, largest: float) -> None:
        super().__init__(text)
        self.largest = largest


class ReferenceDifference(NamedTuple):
    """The difference between the logits of the reference images on this machine and those in the artefact."""

    largest: float  # difference
    largest_logit: float


def check_file(folder: str | Path, manifest: Manifest) -> Path:
    """Return the artefact's ONNX file. Raises InputError where it is not the one that the manifest describes."""
    file = Path(folder) / MODEL
    if sha256(file) != manifest.file.sha256:
        raise InputError(f"{file} is not the file that {MANIFEST} describes: export the model again")
    return file


def read_reference(folder: str | Path, manifest: Manifest) -> tuple[NDArray[numpy.uint8], NDArray[numpy.floating]]:
    """Return the reference images N,C,H,W and their logits N,K.

    Raises InputError where the file is damaged or belongs to another model.
    """
    path = Path(folder) / REFERENCE
    try:
        with numpy.load(path, allow_pickle=False) as reference:
            pixels, logits = reference["pixels"], reference["logits"]
    except DAMAGED:
        raise InputError(f"cannot read {path}: it is damaged: export the model again") from None
    n = len(pixels) if pixels.ndim else 0
    if not n or pixels.shape[1:] != manifest.input_size or logits.shape != (n, len(manifest.classes)):
        raise InputError(
            f"{path} holds images {pixels.shape} and logits {logits.shape}, not 1 or more of what {MANIFEST} says, "
            f"{manifest.input_size} and {len(manifest.classes)} classes: export the model again"
        )
    if pixels.dtype != numpy.uint8 or logits.dtype.kind != "f" or not numpy.isfinite(logits).all():
        raise InputError(f"{path} does not hold pixels in uint8 and finite logits: export the model again")
    return pixels, logits


def check_reference(folder: str | Path, manifest: Manifest, run: Run) -> ReferenceDifference:
    """Run the reference images and compare their logits.

    Raises InputError where they cannot be run, and OtherLogits where the logits differ by more than the manifest's tolerance.
    """
    pixels, logits = read_reference(folder, manifest)
    computed = numpy.concatenate(
        [run(pixels[at : at + BATCH].astype(numpy.float32) / numpy.float32(255)) for at in range(0, len(pixels), BATCH)]
    )
    if computed.shape != logits.shape:
        raise InputError(
            f"{Path(folder) / MODEL} gives {computed.shape[-1]} outputs, and {MANIFEST} names {len(manifest.classes)} classes: "
            "export the model again"
        )
    difference = ReferenceDifference(float(abs(computed - logits).max()), float(abs(logits).max()))
    if not difference.largest <= manifest.reference_tolerance * difference.largest_logit:
        flags = ", ".join(sorted(set(manifest.checked.cpu) - cpu_flags())) or "none"
        raise OtherLogits(
            f"{folder} does not run on this machine as where it was exported: logits of its reference images differ by "
            f"{difference.largest:.3g} (largest {difference.largest_logit:.3g}; CPU flags missing here: {flags}): export it "
            "here, or in floating point",
            difference.largest,
        )
    return difference
