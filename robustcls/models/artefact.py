"""Loads a folder that `robustcls export` wrote, and checks that this machine runs it as the one that wrote it."""

from pathlib import Path
from typing import Any

import torch

from robustcls.core.classifier import Classifier
from robustcls.models.onnx.net import OnnxNet
from robustcls.results.artefact import DRIFT, MANIFEST, Manifest
from robustcls.runtime.predict import predict
from robustcls.runtime.session import check_file, check_reference


def is_artefact(spec: str) -> bool:
    return (Path(spec) / MANIFEST).is_file()


def meta_of(manifest: Manifest) -> dict[str, Any]:
    """What an artefact says of its training, as a checkpoint of ours does."""
    return manifest.trained | ({"threat": manifest.threat} if manifest.threat else {})


def notes_of(folder: str | Path, manifest: Manifest) -> list[str]:
    """What whoever uses an artefact must know of it."""
    twice = sorted({name for name in manifest.classes if manifest.classes.count(name) > 1})
    notes = [f"{folder}: several classes are called {', '.join(map(repr, twice[:3]))}"] if twice else []
    if not (Path(folder) / DRIFT).is_file():
        notes.append(f"{folder} has no {DRIFT}: no service can watch its outputs for drift; export it again")
    return notes


def load_artefact(folder: str | Path, manifest: Manifest) -> Classifier:
    """The classifier of an artefact. Raises InputError where the file is not the manifest's, or runs otherwise here."""
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
