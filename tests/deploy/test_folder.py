"""The folder of an artefact: what is replaced, what is not, and what killed exports leave behind."""

import fcntl
import os
import subprocess
import sys

import pytest

import robustcls
from robustcls.core.errors import InputError
from robustcls.deploy.folder import claimed
from robustcls.results.artefact import MANIFEST
from tests.deploy.conftest import damage_schema

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


def test_a_folder_of_something_else_is_not_replaced(model, images, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not an artefact folder"):
        robustcls.export(model, tmp_path / "thesis", calibration=images)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"
    robustcls.export(model, tmp_path / "thesis", calibration=images, overwrite=True)
    assert not (tmp_path / "thesis" / "chapter1.txt").exists()


@pytest.mark.parametrize("content", ['{"name": "my web app"}', "{", "[" * 100_000, '{"schema": 5}', "[]", None])
def test_a_manifest_of_another_program_is_no_artefact(content, model, images, tmp_path):
    home = tmp_path / "web"
    (home / "src").mkdir(parents=True)
    (home / "src" / "main.js").write_text("years of work")
    if content is not None:
        (home / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=r"is not an artefact folder \(src\)"):
        robustcls.export(model, home, calibration=images)
    assert (home / "src" / "main.js").read_text() == "years of work"
    (home / "src" / "main.js").unlink()
    (home / "src").rmdir()
    if content is not None:
        with pytest.raises(InputError, match=f"{MANIFEST} is of another program, or damaged"):
            robustcls.export(model, home, calibration=images)
        assert (home / MANIFEST).read_text() == content


@pytest.mark.slow
def test_an_artefact_beside_which_somebody_put_files_is_not_replaced(model, images, tmp_path):
    robustcls.export(model, tmp_path / "artefact", calibration=images)
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        (tmp_path / "artefact" / name).write_text("notes")
    with pytest.raises(InputError, match=r"\(a.txt, b.txt, c.txt and 1 more\)"):
        robustcls.export(model, tmp_path / "artefact", calibration=images)
    assert (tmp_path / "artefact" / "d.txt").read_text() == "notes"


@pytest.mark.slow
def test_an_artefact_of_any_version_is_replaced_with_what_was_measured_of_it(model, images, tmp_path):
    home = tmp_path / "artefact"
    robustcls.export(model, home, calibration=images)
    damage_schema(home)
    ours = ["evaluation.json", "evaluation-earlier-2.json", "report-new.html", "MODEL_CARD.md", "robustbench.json"]
    for name in ours:
        (home / name).write_text("")
    (home / "evaluation.json.partial").mkdir()
    (home / "explain").mkdir()
    robustcls.export(model, home, calibration=images)
    assert sorted(path.name for path in home.iterdir()) == ["drift.npz", MANIFEST, "model.onnx", "reference.npz"]


@pytest.mark.slow
def test_half_an_artefact_is_not_taken_for_one(model, images, tmp_path):
    robustcls.export(model, tmp_path / "artefact", calibration=images)
    (tmp_path / "artefact" / MANIFEST).unlink()
    with pytest.raises(InputError, match=f"without {MANIFEST}"):
        robustcls.export(model, tmp_path / "artefact", calibration=images)


def test_what_killed_exports_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "s").mkdir()
    for name in (".s.abcdefgh.part", ".s.0bcdefg_.part.before"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "model.onnx").write_text("half")
    kept = [".s.settings", ".s.t.abcdefgh.part", ".t.abcdefgh.part", ".s.abcdefgh.parted", "s.abcdefgh.part"]
    for name in kept:
        (tmp_path / name).mkdir()
    with claimed(tmp_path / "s", overwrite=False):
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "s", ".s.artefact.lock"])
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "s"])


def test_an_artefact_that_was_being_replaced_when_its_export_was_killed_comes_back(tmp_path):
    (tmp_path / ".s.abcdefgh.part.before").mkdir()
    (tmp_path / ".s.abcdefgh.part.before" / MANIFEST).write_text("old")
    (tmp_path / ".s.abcdefgh.part").mkdir()
    with claimed(tmp_path / "s", overwrite=False):
        pass
    assert (tmp_path / "s" / MANIFEST).read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_two_long_names_do_not_share_their_leftovers(tmp_path):
    from robustcls.core.folders import _prefix

    one, other = (tmp_path / f"{'n' * 60}{end}" for end in "ab")
    left = tmp_path / f"{_prefix(other)}abcdefgh.part"
    left.mkdir()
    with claimed(one, overwrite=False):
        assert left.exists()


def test_another_export_to_the_same_place_is_named_with_it(tmp_path):
    holder = os.open(tmp_path / ".both.artefact.lock", os.O_RDWR | os.O_CREAT)
    os.write(holder, b"process 17 on elsewhere since noon\n")
    fcntl.flock(holder, fcntl.LOCK_EX)
    with pytest.raises(InputError) as caught, claimed(tmp_path / "both", overwrite=False):
        pass
    os.close(holder)
    expected = f"{tmp_path / 'both'} is being written by process 17 on elsewhere since noon: "
    assert str(caught.value).startswith(expected)


SLOW = """
import os, signal, torch
from torch import nn

class Stopped(nn.Module):
    def forward(self, x):
        if torch.compiler.is_exporting():
            os.kill(os.getpid(), signal.SIGTERM)
        return x.flatten(1)[:, :10]
"""


@pytest.mark.slow
def test_sigterm_leaves_nothing_and_ends_as_ctrl_c_does(tmp_path):
    (tmp_path / "stopped_nets.py").write_text(SLOW, encoding="utf-8")
    (tmp_path / "here").mkdir()
    found = subprocess.run(
        [sys.executable, "-m", "robustcls", "export", "--model", "stopped_nets:Stopped", "--data", "digits(size=8)",
         "--out", "new/s"],
        cwd=tmp_path / "here", capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    assert found.returncode == 130, found.stderr
    assert found.stderr.splitlines()[-1] == "robustcls: interrupted"
    assert not list((tmp_path / "here").iterdir())
