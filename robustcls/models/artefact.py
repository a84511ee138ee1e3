"""Loads a folder that `robustcls export` wrote, and checks that this machine runs it as the one that wrote it."""

from pathlib import Path
from typing import Any

import numpy
import torch

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.models.onnx.net import OnnxNet
from robustcls.results.artefact import MANIFEST, MODEL, REFERENCE, Manifest
from robustcls.runtime.device import cpu_flags
from robustcls.runtime.predict import predict


def is_artefact(spec: str) -> bool:
    return (Path(spec) / MANIFEST).is_file()


def meta_of(manifest: Manifest) -> dict[str, Any]:
    """What an artefact says of its training, as a checkpoint of ours does."""
    return manifest.trained | ({"threat": manifest.threat} if manifest.threat else {})


def load_artefact(folder: str | Path, manifest: Manifest) -> Classifier:
    """The classifier of an artefact. Raises InputError where the file is not the manifest's, or runs otherwise here."""
    file = Path(folder) / MODEL
    if sha256(file) != manifest.file.sha256:
        raise InputError(f"{file} is not the file that {MANIFEST} describes: export the model again")
    kind = "int8" if manifest.quantization else "fp32"
    net = OnnxNet(file)
    net.try_twin(manifest.input_size)
    model = Classifier(
        net,
        classes=manifest.classes,
        input_size=manifest.input_size,
        arch=f"onnx {kind}({manifest.source.arch})",
    ).eval()
    model.normalised_inside = True
    difference, largest = reference_difference(model, folder)
    if not difference <= manifest.reference_tolerance * largest:
        flags = ", ".join(set(manifest.checked.cpu) - cpu_flags()) or "none"
        raise InputError(
            f"{folder} does not run on this machine as where it was exported: logits of its reference images differ by "
            f"{difference:.3g} (largest {largest:.3g}; CPU flags missing here: {flags}): export it here, or in floating point"
        )
    return model


def reference_difference(model: torch.nn.Module, folder: str | Path) -> tuple[float, float]:
    """The largest difference between the logits of the reference images, here and as written, and the largest logit."""
    try:
        with numpy.load(Path(folder) / REFERENCE, allow_pickle=False) as reference:
            pixels, logits = torch.from_numpy(reference["pixels"]), torch.from_numpy(reference["logits"])
    except (OSError, ValueError, KeyError):
        raise InputError(f"cannot read {Path(folder) / REFERENCE}: export the model again") from None
    found = predict(model, pixels.float() / 255, 32)
    if found.shape != logits.shape:
        raise InputError(f"{Path(folder) / REFERENCE} is not of this file: export the model again")
    return (found - logits).abs().max().item(), logits.abs().max().item()
