"""Loads a folder that `robustcls export` wrote, and checks that this machine computes the same outputs as the exporting one."""

from pathlib import Path
from typing import Any

import torch

from robustcls.core.classifier import Classifier
from robustcls.models.onnx.net import OnnxNet
from robustcls.results.artefact import DRIFT, MANIFEST, Manifest
from robustcls.runtime.predict import predict
from robustcls.runtime.session import check_file, check_reference


def is_artefact(spec: str) -> bool:
    """Whether a path is a folder that `robustcls export` wrote."""
    return (Path(spec) / MANIFEST).is_file()


def meta_of(manifest: Manifest) -> dict[str, Any]:
    """Return the training metadata of an artefact, in the form of a checkpoint's meta."""
    return manifest.trained | ({"threat": manifest.threat} if manifest.threat else {})


def notes_of(folder: str | Path, manifest: Manifest) -> list[str]:
    """Return notes for the user of an artefact."""
    repeated = sorted({name for name in manifest.classes if manifest.classes.count(name) > 1})
    notes = [f"{folder}: several classes are called {', '.join(map(repr, repeated[:3]))}"] if repeated else []
    if not (Path(folder) / DRIFT).is_file():
        notes.append(f"{folder} has no {DRIFT}: no service can watch its outputs for drift; export it again")
    return notes


def load_artefact(folder: str | Path, manifest: Manifest) -> Classifier:
    """Load the classifier of an artefact.

    Raises InputError where the file is not the one in the manifest, or gives other outputs on this machine.
    """
    net = OnnxNet(check_file(folder, manifest))
    net.manifest = manifest
    net.try_twin(manifest.input_size)
    model = Classifier(
        net,
        classes=manifest.classes,
        input_size=manifest.input_size,
        arch=f"onnx {manifest.kind}({manifest.source.arch})",
    ).eval()
    model.normalised_inside = True
    check_reference(folder, manifest, lambda pixels: predict(model, torch.from_numpy(pixels), len(pixels)).numpy())
    return model
