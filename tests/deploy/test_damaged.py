"""An artefact that is damaged, or of another version: one line says so, before anything runs."""

import numpy
import pytest

import robustcls
from robustcls.core.errors import InputError
from robustcls.results.artefact import MANIFEST
from tests.deploy.conftest import damage_schema

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def damage_model(folder):
    with open(folder / "model.onnx", "ab") as file:
        file.write(b"\0")


def damage_reference(folder):
    with numpy.load(folder / "reference.npz") as reference:
        arrays = dict(reference)
    arrays["logits"] += 1.0
    numpy.savez(folder / "reference.npz", **arrays)


def cut_reference(folder):
    whole = (folder / "reference.npz").read_bytes()
    (folder / "reference.npz").write_bytes(whole[: len(whole) // 2])


def flip_reference(folder):
    whole = bytearray((folder / "reference.npz").read_bytes())
    whole[1000] ^= 255  # a pixel
    (folder / "reference.npz").write_bytes(whole)


def with_reference(**changed):
    """Damage: arrays of the reference, changed by functions."""

    def damage(folder):
        with numpy.load(folder / "reference.npz") as reference:
            arrays = dict(reference)
        for name, change in changed.items():
            arrays[name] = change(arrays[name])
        numpy.savez(folder / "reference.npz", **arrays)

    return damage


def one_array(folder):
    with open(folder / "reference.npz", "wb") as file:
        numpy.save(file, numpy.zeros(3))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "reference.npz").write_bytes(b""), "reference.npz: it is damaged"),
        (cut_reference, "reference.npz: it is damaged"),
        (flip_reference, "reference.npz: it is damaged"),
        (one_array, "reference.npz: it is damaged"),
        (with_reference(pixels=lambda x: x[:0], logits=lambda x: x[:0]), "1 or more"),
        (with_reference(pixels=lambda x: x[0, 0, 0, 0]), "1 or more"),
        (with_reference(pixels=lambda x: x[..., :5]), "not 1 or more of what manifest.json says"),
        (with_reference(logits=lambda x: x[:5]), "not 1 or more of what manifest.json says"),
        (with_reference(logits=lambda x: x[:, :2]), "not 1 or more of what manifest.json says"),
        (with_reference(pixels=lambda x: x.astype(float)), "uint8"),
        (with_reference(logits=lambda x: x.astype(str)), "uint8 and finite logits"),
        (with_reference(logits=lambda x: x * numpy.nan), "uint8 and finite logits"),
    ],
)
def test_a_damaged_reference_is_refused_in_one_line(damage, words, model, images, tmp_path):
    robustcls.export(model, tmp_path / "artefact", calibration=images)
    damage(tmp_path / "artefact")
    with pytest.raises(InputError, match=words) as caught:
        robustcls.load(tmp_path / "artefact")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "half an artefact"),
        (lambda folder: (folder / "reference.npz").write_bytes(b"no"), "cannot read .*reference.npz"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is not JSON"),
        (damage_schema, "robustcls/artefact/2"),
        (damage_model, "is not the file that manifest.json describes"),
        (damage_reference, "does not run on this machine as where it was exported"),
    ],
)
def test_a_damaged_artefact_is_refused_in_one_line(damage, words, model, images, tmp_path):
    robustcls.export(model, tmp_path / "artefact", calibration=images)
    damage(tmp_path / "artefact")
    with pytest.raises(InputError, match=words) as caught:
        robustcls.load(tmp_path / "artefact")
    assert "\n" not in str(caught.value)
