"""An artefact that is damaged or of another version is refused in one line, before anything runs."""

import copy
import json
import shutil

import numpy
import pytest
import torch

import robustcls
from robustcls.core.errors import InputError
from robustcls.results.artefact import MANIFEST
from tests.deploy.conftest import SIZE, damage_schema, normalised_model

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return an artefact that is exported once for all tests of this file."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("exported") / "artefact"
    return robustcls.export(normalised_model(), folder, calibration=torch.rand(80, *SIZE))


@pytest.fixture
def folder(exported, tmp_path):
    """Return a copy of the artefact, to damage."""
    return shutil.copytree(exported.folder, tmp_path / "artefact")


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
    whole[1000] ^= 255  # one pixel
    (folder / "reference.npz").write_bytes(whole)


def with_reference(**changed):
    """Return a function that changes arrays of the reference by the given functions."""

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
def test_a_damaged_reference_is_refused_in_one_line(damage, words, folder):
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        robustcls.load(folder)
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
def test_a_damaged_artefact_is_refused_in_one_line(damage, words, folder):
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        robustcls.load(folder)
    assert "\n" not in str(caught.value)


def with_manifest(**changed):
    """Return a function that sets fields of the manifest; threat__eps names the field eps of its part threat."""

    def damage(folder):
        record = json.loads((folder / MANIFEST).read_text())
        for place, value in changed.items():
            part = record
            *above, name = place.split("__")
            for one in above:
                part = part.setdefault(one, {})
            part[name] = value
        (folder / MANIFEST).write_text(json.dumps(record))

    return damage


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"threat": {"norm": "linf"}}, "threat.eps: None is not a radius"),
        ({"threat": {"norm": "linf", "eps": "8/255"}}, "threat.eps: '8/255' is not a radius"),
        ({"threat": {"norm": "l7", "eps": 0.1}}, "threat.norm: 'l7' is not linf, l2 or l1"),
        ({"trained": {"data": 5}}, "trained.data: 5 is not what a training says of itself"),
        ({"trained": {"data_dir": 5}}, "trained.data_dir: 5 is not"),
        ({"trained": {"seed": None}}, "trained.seed: None is not"),
        ({"trained": {"config": "x"}}, "trained.config: 'x' is not an object"),
        ({"trained": {"config": {"limit_train": "x"}}}, "trained.config.limit_train: 'x' is not a number of images"),
        ({"classes": []}, r"classes: \[\] is not a list of names"),
        ({"classes": ["cat", "dog"]}, "2 classes"),
        ({"reference_tolerance": 5.0}, "reference_tolerance: 5.0 is not a small share"),
        ({"decoding__height": 0}, "is not a size of images"),
    ],
)
def test_a_damaged_manifest_is_refused_in_one_line(changed, words, folder):
    with_manifest(**changed)(folder)
    with pytest.raises(InputError, match=words) as caught:
        robustcls.load(folder)
    assert "\n" not in str(caught.value)


def test_a_newer_schema_says_what_to_update(folder):
    damage_schema(folder)
    with pytest.raises(
        InputError, match=r"schema 'robustcls/artefact/2': a newer robustcls wrote it.*update robustcls"
    ):
        robustcls.load(folder)


def test_what_an_artefact_lacks_is_said(exported, folder):
    from robustcls.models.artefact import notes_of

    assert notes_of(folder, exported.manifest) == []
    (folder / "drift.npz").unlink()
    manifest = copy.deepcopy(exported.manifest)
    manifest.classes = ["cat", "cat", "ship"]
    said = notes_of(folder, manifest)
    assert len(said) == 2
    assert "several classes are called 'cat'" in said[0]
    assert "has no drift.npz" in said[1]
    with pytest.warns(UserWarning, match=r"has no drift\.npz"):
        loaded = robustcls.load(folder)
    assert loaded.classes == ("cat", "dog", "ship")
