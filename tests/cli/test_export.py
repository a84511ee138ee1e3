"""`robustcls export`: its output and files; errors give one line, exit status 2, and leave nothing behind."""

import shutil

import numpy
import pytest
import torch

import robustcls
from robustcls.data.splits import load_split
from robustcls.results.artefact import MANIFEST, Manifest
from tests.cli.conftest import run_main

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

NETS = '''
"""Models of a user's own."""

import torch
from torch import nn

class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x).flatten(1)[:, :10]

class Interrupted(nn.Module):
    def forward(self, x):
        if torch.compiler.is_exporting():
            raise KeyboardInterrupt
        return x.flatten(1)[:, :10]

def sizeless():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
'''


@pytest.fixture(scope="module")
def made(home, tmp_path_factory):
    """Return artefacts of one checkpoint in 32 and 8 bits, which no test changes, and what the command printed."""
    folder = tmp_path_factory.mktemp("artefacts")
    printed = {
        name: run_main("export", "--model", home / "pgd" / "ckpt.pt", "--out", folder / name, *more)
        for name, more in (("fp32", ()), ("int8", ("--quantize", "int8(calibrate=64)", "--max-robust-drop", 50)))
    }
    return folder, printed


@pytest.fixture
def nets(tmp_path, cli):
    (tmp_path / "export_nets.py").write_text(NETS, encoding="utf-8")
    return cli


def words(text):
    return " ".join(text.split())


@pytest.mark.slow
def test_it_says_what_was_checked_and_where_the_file_is(made):
    folder, printed = made
    plain, rounded = printed["fp32"], printed["int8"]
    assert (plain.status, rounded.status) == (0, 0), plain.err + rounded.err
    assert plain.out.startswith(f"{folder / 'fp32'}: fp32, ")
    assert rounded.out.startswith(f"{folder / 'int8'}: int8, ")
    said = words(rounded.err)
    assert "images of digits(size=8), split train" in said
    assert "at batch 1 and 32: logits within" in said
    assert "robust accuracy falls by" in said
    assert "of 64 calibration images keep their label" in said
    manifest = Manifest.of(folder / "int8")
    assert (manifest.quantization.calibration.data, manifest.quantization.calibration.split) == (
        "digits(size=8)",
        "train",
    )
    assert manifest.threat["norm"] == "linf"
    assert manifest.trained["seed"] == 0
    unseen, _ = load_split("digits(size=8)", "val", seed=0).batch()  # the drift reference is made of validation images
    with numpy.load(folder / "fp32" / "drift.npz") as drift:
        assert drift["n"] == len(unseen)
        median = robustcls.load(folder / "fp32")(unseen).detach().softmax(1).quantile(0.5, 0)
        numpy.testing.assert_allclose(drift["quantiles"][:, 50], median, atol=1e-5)
    assert sorted(path.name for path in folder.iterdir()) == ["fp32", "int8"]


@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_an_artefact_is_attacked_as_its_checkpoint_is(kind, made, cli):
    found = cli("attack", "--model", made[0] / kind, "--n", 20, "--attack", "pgd(steps=2)", "--out", "e.json")
    assert found.status == 0, found.err
    assert "sees pixels in [0, 1], any normalisation is inside the file" in words(found.err)


def test_quiet_prints_the_result_alone_and_an_earlier_artefact_is_replaced(made, cli):
    shutil.copytree(made[0] / "int8", "artefact")
    found = cli("export", "--model", made[0] / "fp32", "--out", "artefact", "--quiet")
    assert (found.status, found.err) == (0, "")
    assert found.out.startswith("artefact: fp32, ")
    assert found.out.count("\n") == 1
    assert Manifest.of("artefact").quantization is None


def test_an_evaluation_of_an_artefact_that_was_replaced_meanwhile_says_so(made, cli, monkeypatch):
    shutil.copytree(made[0] / "fp32", "artefact")
    attack = ("attack", "--model", "artefact", "--n", 20, "--attack", "fgsm")
    assert "was replaced meanwhile" not in cli(*attack).err
    from robustcls.evaluation import evaluate

    run = evaluate.evaluate_subject

    def replace_it(*given, **options):
        shutil.copy(made[0] / "int8" / "model.onnx", "artefact/model.onnx")
        return run(*given, **options)

    monkeypatch.setattr(evaluate, "evaluate_subject", replace_it)
    found = cli(*attack)
    assert found.status == 0
    assert "warning: artefact/model.onnx was replaced meanwhile" in words(found.err)


def test_help_says_what_a_model_without_data_is_checked_on(cli):
    assert "a model without data is checked on noise" in words(cli("export", "--help").out)


CKPT = ["--model", "{home}/pgd/ckpt.pt"]
INT8 = [*CKPT, "--quantize", "int8"]
BAD = {
    "no checkpoint": (["--model", "{home}/none.pt"], "no file"),
    "a folder that is none": (["--model", "{home}/images"], "{home}/images: it is a folder, but neither of export"),
    "an empty folder": (["--model", "{home}/export/empty"], "it is a folder, but neither of export"),
    "an operator that ONNX lacks": (["--model", "export_nets:Bessel", "--data", "digits(size=8)"], "bessel_j0"),
    "a model without size": (["--model", "export_nets:sizeless"], "does not say which images it takes: give --data"),
    "a model without data": (["--model", "my_plugins:net", "--quantize", "int8"], "names no data: give --data"),
    "data of another size": ([*CKPT, "--data", "digits"], "the model takes"),
    "data of another form": ([*CKPT, "--data", "folder:{home}/images"], "images are 3x8x8, the model takes 1x8x8"),
    "the test split": ([*CKPT, "--split", "test"], "would bias the evaluation of the file: give --split train"),
    "another quantiser": ([*CKPT, "--quantize", "int9"], "did you mean 'int8'?"),
    "a typo in it": ([*CKPT, "--quantize", "int8(calibrat=3)"], "did you mean 'calibrate'?"),
    "no images to calibrate on": ([*CKPT, "--quantize", "int8(calibrate=0)"], "give 1 or more"),
    "more than all adversarial": ([*CKPT, "--quantize", "int8(adversarial=2)"], "give 0 to 1"),
    "other ranges": ([*CKPT, "--quantize", "int8(ranges=all)"], "minmax"),
    "a bound of nothing": ([*CKPT, "--max-robust-drop", "1"], "give both"),
    "a bound below zero": ([*INT8, "--max-robust-drop", "-1"], "--max-robust-drop -1 is not a number of points"),
    "a bound that is none": ([*INT8, "--max-robust-drop", "nan"], "nan is not a number"),
    "a bound in words": ([*INT8, "--max-robust-drop", "little"], "little"),
    "a bound without a radius": (
        [
            "--model",
            "{home}/two.pt",
            "--data",
            "tests.cli.test_export:two",
            "--quantize",
            "int8",
            "--max-robust-drop",
            "1",
        ],
        "needs a threat model",
    ),
    "a norm without a radius": ([*CKPT, "--norm", "l2"], "has no radius here: give --eps"),
    "a place that is a file": ([*CKPT, "--out", "{home}/a.json"], "is not an artefact folder"),
    "a place below a file": ([*CKPT, "--out", "{home}/a.json/artefact"], "cannot write"),
    "a folder of other things": ([*CKPT, "--out", "{home}/images"], "is not an artefact folder"),
    "the checkpoint's folder": ([*CKPT, "--out", "{home}/pgd", "--overwrite"], "would replace {home}/pgd/ckpt.pt"),
    "a folder above it": ([*CKPT, "--out", "{home}", "--overwrite"], "would replace {home}/pgd/ckpt.pt"),
    "the folder of the data": (
        [*CKPT, "--data", "folder:{home}/images", "--out", "{home}/images", "--overwrite"],
        "would replace {home}/images",
    ),
    "the artefact itself": (["--model", "{made}/fp32", "--out", "{made}/fp32"], "would replace {made}/fp32"),
    "inside the artefact": (["--model", "{made}/fp32", "--out", "{made}/fp32/int8"], "lies inside the artefact"),
    "a configuration in it": (
        [*CKPT, "--config", "{home}/export/c.toml", "--out", "{home}/export", "--overwrite"],
        "would replace {home}/export/c.toml",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_said_in_one_line_and_leaves_nothing(case, home, made, nets, tmp_path):
    (home / "export" / "empty").mkdir(parents=True, exist_ok=True)
    (home / "export" / "c.toml").write_text("seed = 1\n", encoding="utf-8")
    arguments, expected = BAD[case]
    before = {path: path.stat().st_mtime_ns for root in (home, made[0], tmp_path) for path in root.rglob("*")}
    places = {"home": home, "made": made[0]}
    arguments = [argument.format(**places) for argument in arguments]
    found = nets("export", *([] if "--out" in arguments else ["--out", "new/artefact"]), *arguments)
    assert found.status == 2, found.out + found.err
    assert found.out == ""
    *notes, line = found.err.splitlines()
    assert line.startswith("robustcls: ")
    assert expected.format(**places) in line
    assert not any("Traceback" in note for note in notes)
    after = {path: path.stat().st_mtime_ns for root in (home, made[0], tmp_path) for path in root.rglob("*")}
    left = {path for path in after.keys() - before.keys() if "__pycache__" not in path.parts}
    assert not left
    assert not before.keys() - after.keys()


def test_ctrl_c_leaves_nothing(nets, tmp_path):
    found = nets("export", "--model", "export_nets:Interrupted", "--data", "digits(size=8)", "--out", "new/artefact")
    assert found.status == 130
    assert found.err.splitlines()[-1] == "robustcls: interrupted"
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize("when", ["deploy.export.write_drift", "core.folders._umask"])
def test_ctrl_c_leaves_an_earlier_artefact_as_it_was(when, made, home, cli, tmp_path, monkeypatch):
    from robustcls.deploy import export

    def interrupt(*_):
        raise KeyboardInterrupt

    shutil.copytree(made[0] / "fp32", "artefact")
    before = {path.name: path.read_bytes() for path in (tmp_path / "here" / "artefact").iterdir()}
    monkeypatch.setattr(
        export, "write_onnx", lambda model, path, size, **_: shutil.copy(made[0] / "fp32/model.onnx", path)
    )
    monkeypatch.setattr(f"robustcls.{when}", interrupt)
    assert cli("export", "--model", home / "pgd" / "ckpt.pt", "--out", "artefact").status == 130
    assert {path.name: path.read_bytes() for path in (tmp_path / "here" / "artefact").iterdir()} == before
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["artefact"]


def test_a_folder_that_cannot_be_put_in_its_place_leaves_the_earlier_one(tmp_path, monkeypatch):
    from robustcls.core import folders as folder

    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "model.onnx").write_text("old")
    rename = folder.os.replace

    def fail_once(source, target):
        if source == tmp_path / "new":
            raise PermissionError(13, "not here")
        rename(source, target)

    monkeypatch.setattr(folder.os, "replace", fail_once)
    with pytest.raises(PermissionError):
        folder._replace(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "model.onnx").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


def change_reference(folder):
    with numpy.load(folder / "reference.npz") as reference:
        arrays = dict(reference)
    arrays["logits"] = arrays["logits"] * 1.3
    numpy.savez(folder / "reference.npz", **arrays)


def change_schema(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace("robustcls/artefact/1", "robustcls/artefact/2"))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (change_reference, "does not run on this machine as where it was exported"),
        (change_schema, "robustcls/artefact/2"),
        (lambda folder: (folder / "model.onnx").unlink(), "has no model.onnx: it is half an artefact"),
        (lambda folder: (folder / "reference.npz").unlink(), "has no reference.npz: it is half an artefact"),
        (lambda folder: (folder / MANIFEST).unlink(), "artefact"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"no"), "is not the file that manifest.json describes"),
    ],
    ids=["another CPU", "a newer schema", "no model", "no reference", "no manifest", "another file"],
)
@pytest.mark.parametrize("command", [["attack", "--n", 10, "--attack", "fgsm"], ["export", "--out", "again"]])
def test_a_folder_that_is_no_longer_an_artefact(damage, expected, command, made, cli, tmp_path):
    shutil.copytree(made[0] / "int8", "artefact")
    damage(tmp_path / "here" / "artefact")
    found = cli(*command, "--model", "artefact")
    assert found.status == 2, found.out
    assert expected in found.err.splitlines()[-1]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["artefact"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", "{home}/two-weights.pt", "--arch", "vgg16(width=0.05)", "--data", "tests.cli.test_export:two",
         "--mean", "0.5", "--std", "0.25"],
        ["--model", "my_plugins:net"],
        ["--model", "my_plugins:net", "--data", "digits(size=8)", "--quantize", "int8(calibrate=32, ranges=percentile)"],
        ["--model", "{made}/fp32/model.onnx", "--data", "digits(size=8)"],
        ["--model", "{made}/fp32/model.onnx", "--data", "digits(size=8)", "--quantize", "int8(calibrate=32)"],
        ["--model", "{made}/fp32"],
        ["--model", "{made}/fp32", "--quantize", "int8(calibrate=32, adversarial=0.5)"],
    ],
    ids=["state dict", "callable", "callable int8", "onnx", "onnx int8", "artefact", "artefact int8"],
)  # fmt: skip
def test_whatever_a_model_may_be_is_exported(arguments, home, made, cli, tmp_path):
    places = {"home": home, "made": made[0]}
    found = cli("export", *[argument.format(**places) for argument in arguments], "--out", "artefact")
    assert found.status == 0, found.err
    manifest = Manifest.of("artefact")
    assert (manifest.quantization is not None) == ("--quantize" in arguments)
    assert sorted(path.name for path in tmp_path.glob("here/artefact/*")) == [
        "drift.npz", "manifest.json", "model.onnx", "reference.npz",
    ]  # fmt: skip
    import robustcls

    model = robustcls.load("artefact")
    assert model(torch.rand(3, *model.input_size)).shape == (3, len(manifest.classes))


def two(split):
    """Return data with the two classes of the checkpoints of tests.helpers."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(80, 1, 8, 8, generator=generator), torch.arange(80) % 2, ("a", "b")
