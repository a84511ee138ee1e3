"""An artefact without a model worth running: what monitoring reads of one."""

import hashlib
import json

import numpy
import pytest


@pytest.fixture
def artefact(tmp_path):
    folder = tmp_path / "artefact"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"")
    rng = numpy.random.default_rng(0)
    numpy.savez(folder / "reference.npz", pixels=rng.integers(0, 256, (4, 1, 8, 8)), logits=rng.normal(0, 9, (4, 3)))
    manifest = {
        "schema": "robustcls/artefact/1",
        "name": "runs/demo/ckpt.pt",
        "file": {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 1, "opset": 18, "parameters": 1},
        "classes": ["cat", "dog", "owl"],
        "decoding": {"height": 8, "width": 8, "channels": 1},
        "source": {"name": "runs/demo/ckpt.pt", "sha256": "00"},
        "checked": {"images": 1, "batch_sizes": [1], "largest_difference": 0.0, "largest_logit": 1.0},
        "created": "2026-01-01T00:00:00+00:00",
        "reference_tolerance": 1e-4,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
