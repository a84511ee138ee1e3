"""Runs an ONNX file with onnxruntime, and checks that an artefact's runs here as where it was exported. Without PyTorch."""

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

Run = Callable[[NDArray[numpy.float32]], NDArray[numpy.float32]]  # images N,C,H,W in [0, 1] to logits N,K


def open_session(path: str | Path, threads: int, providers: Iterable[str] = (CPU,)) -> Any:
    """An onnxruntime.InferenceSession that computes on so many threads. Raises InputError."""
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path} needs onnxruntime: pip install 'robustcls[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors: it warns of every weight that it prunes
    there = onnxruntime.get_available_providers()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[one for one in providers if one in there])
    except Exception as error:  # its exceptions have no class in common
        reason = " ".join(str(error).split())
        raise InputError(f"cannot read {path}: {reason:.160}: export it again") from None


class ReferenceDifference(NamedTuple):
    """How far the logits of an artefact's reference images are here from those that were written."""

    largest: float
    largest_logit: float


def check_file(folder: str | Path, manifest: Manifest) -> Path:
    """The artefact's ONNX file. Raises InputError where it is not the one that the manifest describes."""
    file = Path(folder) / MODEL
    if sha256(file) != manifest.file.sha256:
        raise InputError(f"{file} is not the file that {MANIFEST} describes: export the model again")
    return file


def check_reference(folder: str | Path, manifest: Manifest, run: Run) -> ReferenceDifference:
    """Runs the reference images. Raises InputError where their logits are not within the manifest's tolerance."""
    path = Path(folder) / REFERENCE
    try:
        with numpy.load(path, allow_pickle=False) as reference:
            pixels, logits = reference["pixels"].astype(numpy.float32) / 255, reference["logits"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"cannot read {path}: export the model again") from None
    found = numpy.concatenate([run(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH)])
    if found.shape != logits.shape:
        raise InputError(f"{path} is not of this file: export the model again")
    difference = ReferenceDifference(float(abs(found - logits).max()), float(abs(logits).max()))
    if not difference.largest <= manifest.reference_tolerance * difference.largest_logit:
        flags = ", ".join(sorted(set(manifest.checked.cpu) - cpu_flags())) or "none"
        raise InputError(
            f"{folder} does not run on this machine as where it was exported: logits of its reference images differ by "
            f"{difference.largest:.3g} (largest {difference.largest_logit:.3g}; CPU flags missing here: {flags}): export it "
            "here, or in floating point"
        )
    return difference
