"""Names and folders of the models that are served."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest

from robustcls.core.errors import InputError
from robustcls.serving.config import BOUNDS, ServeConfig
from robustcls.serving.model import ServedModel, check_names
from tests.helpers.fake_service import write_artefact
from tests.helpers.sample_evaluation import sample_evaluation


@pytest.fixture
def folder(tmp_path):
    return write_artefact(tmp_path / "artefact")


@pytest.mark.parametrize("place", ["a=b", "a=b=c", "=", "x=/y=z"])
@pytest.mark.parametrize("name", ["", "small"])
def test_a_folder_may_hold_equals_signs(place, name, folder, tmp_path):
    there = tmp_path / place
    there.parent.mkdir(exist_ok=True)
    shutil.move(folder, there)
    model = ServedModel.of(f"{name}={there}" if name else str(there))
    assert model.folder == there
    assert model.name == (name or there.name.replace("=", "_"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("..={}", "'..' cannot be part of a URL"),
        (".={}", "'.' cannot be part of a URL"),
        ("a b={}", "'a b' cannot be part of a URL"),
        ("a/b={}", "'a/b' cannot be part of a URL"),
        ("={}", "lacks a name"),
        ("small=", "lacks a folder"),
        ("small=here=there", "here=there is no artefact"),
        ("/no/such=folder", "/no/such=folder is not a folder"),
    ],
)
def test_a_name_that_cannot_be_is_one_line(spec, words, folder):
    with pytest.raises(InputError, match=words) as caught:
        ServedModel.of(spec.format(folder))
    assert "\n" not in str(caught.value)


def test_names_that_would_have_one_address_are_refused(tmp_path):
    one, other = write_artefact(tmp_path / "a b"), write_artefact(tmp_path / "a+b")
    with pytest.raises(InputError, match="'a b' and 'a\\+b' would have the same URL"):
        check_names([str(one), str(other)])
    with pytest.raises(InputError, match="'a_b' and 'a b' would have the same URL"):
        check_names([f"a_b={other}", str(one)])
    check_names([str(one), f"other={other}"])
    check_names([str(one), str(one)])  # versions of a model may share a name


def test_the_command_refuses_them_with_status_2(tmp_path):
    places = [write_artefact(tmp_path / name) for name in ("a b", "a+b")]
    command = [sys.executable, "-m", "robustcls", "serve", *(word for one in places for word in ("--model", str(one)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "would have the same URL" in done.stderr


def test_a_model_that_takes_no_encoded_images_says_so(folder):
    assert any("no encoded images" in note for note in ServedModel.of(str(folder)).notes)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["decoding"]["formats"] = ["PNG"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert not any("no encoded images" in note for note in ServedModel.of(str(folder)).notes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"name": "m", "sha256": ""}}, "does not say which file it evaluated: attack this file again"),
        ({"schema": "robustcls/evaluation/0"}, "an older robustcls wrote it"),
        ({"schema": "robustcls/evaluation/2"}, "a newer robustcls wrote it"),
        ({"schema": None}, "give the file that `robustcls attack` wrote"),
        (
            {"model": {"name": "m"}},
            "model.sha256 is missing: the file is damaged or of another version: attack it again",
        ),
        ({"model": {"name": "m", "sha256": 7}}, "the file is damaged or of another version"),
    ],
)
def test_an_evaluation_that_is_not_shown_says_why(change, words, folder):
    content = json.loads(sample_evaluation().to_json()) | change
    (folder / "evaluation.json").write_text(json.dumps(content))
    model = ServedModel.of(str(folder))
    assert model.evaluation is None
    assert any(words in note for note in model.notes), model.notes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_body": 1e-9}, "too small"),
        ({"max_body": float("inf")}, "too large"),
        ({"max_body": float("nan")}, "too small"),
        ({"timeout": float("nan")}, "too small"),
        ({"timeout": float("inf")}, "too large"),
        ({"timeout": 0}, "too small"),
        ({"drain": float("nan")}, "too small"),
        ({"drain": float("inf")}, "too large"),
        ({"drain": -1}, "too small"),
        ({"threads": 100_000}, "too large"),
        ({"threads": -1}, "too small"),
        ({"batch": 0}, "too small"),
        ({"batch": 10**9}, "too large"),
        ({"queue": 0}, "too small"),
        ({"queue": 10**9}, "too large"),
        ({"max_pixels": 0}, "too small"),
        ({"max_pixels": 10**12}, "too large"),
        ({"port": -1}, "is not a port"),
        ({"port": 65536}, "is not a port"),
    ],
)
def test_options_out_of_bounds_are_one_line(options, words):
    with pytest.raises(InputError, match=words) as caught:
        ServeConfig(**options)
    assert "\n" not in str(caught.value)


def test_every_number_among_the_options_has_bounds():
    numbers = {one.name for one in fields(ServeConfig) if isinstance(one.default, (int, float))}
    assert numbers - {"port", "quiet"} == set(BOUNDS)
    for name, ends in BOUNDS.items():
        for end in ends:
            assert getattr(ServeConfig(**{name: end}), name) == end
