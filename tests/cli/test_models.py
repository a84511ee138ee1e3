"""Third-party models on the command line: ONNX files, model zoos, and the messages about them."""

import json
import warnings

import pytest
import torch

from robustcls.models.checkpoint import build
from robustcls.results.records import Measures

SMALL = ("--data", "digits(size=8)", "--n", 30, "--eps", 0.1, "--device", "cpu")


@pytest.fixture
def onnx_file(home, tmp_path):
    """Return an ONNX file of the network of the standard run, exported with its normalisation inside."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import robustcls

    model = robustcls.load(home / "standard" / "ckpt.pt")
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            model, (torch.rand(2, 1, 8, 8),), tmp_path / "net.onnx", dynamo=False, dynamic_axes={"x": {0: "n"}},
            input_names=["x"], output_names=["logits"],
        )  # fmt: skip
    return tmp_path / "net.onnx"


@pytest.fixture
def opaque_file(onnx_file, tmp_path):
    """Return a file of the same function with an operator that the PyTorch twin lacks."""
    import onnx

    model = onnx.load(onnx_file)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "raw"
    model.graph.node.append(onnx.helper.make_node("Shrink", ["raw"], ["logits"], bias=0.0, lambd=0.0))
    onnx.save(model, tmp_path / "opaque.onnx")
    return tmp_path / "opaque.onnx"


def test_an_onnx_file_is_evaluated_without_gradients(cli, home, onnx_file, tmp_path):
    ours = cli(
        "attack", "--model", home / "standard" / "ckpt.pt", *SMALL, "--attack", "noise", "--out", tmp_path / "a.json"
    )
    theirs = cli("attack", "--model", onnx_file, *SMALL, "--attack", "noise", "--out", tmp_path / "b.json")
    assert (ours.status, theirs.status) == (0, 0), theirs.err
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert b["clean"]["accuracy"] == a["clean"]["accuracy"] > 0.5
    assert b["model"]["name"] == "net.onnx"
    assert len(b["model"]["sha256"]) == 64
    assert len(b["model"]["classes"]) == 10


@pytest.mark.parametrize("what", [("--attack", "pgd(steps=2)"), ("--suite", "fast")])
def test_attacks_by_gradients_are_refused_for_a_file_with_an_unknown_operator(what, cli, opaque_file):
    result = cli("attack", "--model", opaque_file, *SMALL, *what)
    assert result.status == 2
    assert "needs gradients" in result.err
    assert "Shrink" in result.err
    assert "Traceback" not in result.err


def test_gradients_of_an_onnx_file_break_what_the_checkpoints_own_break(cli, home, onnx_file, tmp_path):
    for model, out in ((home / "standard" / "ckpt.pt", "a.json"), (onnx_file, "b.json")):
        result = cli("attack", "--model", model, *SMALL, "--attack", "pgd(steps=5)", "--out", tmp_path / out)
        assert result.status == 0, result.err
    a, b = (json.loads((tmp_path / name).read_text())["robust"] for name in ("a.json", "b.json"))
    assert abs(a["correct"] - b["correct"]) <= 1


def test_an_onnx_file_is_attacked_by_transfer(cli, home, opaque_file, tmp_path):
    surrogate = ("--transfer-from", home / "pgd" / "ckpt.pt", "--attack", "pgd(steps=2)")
    result = cli("attack", "--model", opaque_file, *SMALL, *surrogate, "--out", tmp_path / "t.json")
    assert result.status == 0, result.err
    assert "transfer" in json.loads((tmp_path / "t.json").read_text())["threat"]["knowledge"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("torchvision/resnet18", "ROBUSTCLS_DOWNLOAD=1"),
        ("torchvision/resnet19", "did you mean 'resnet"),
        ("nothing.onnx", "no file nothing.onnx"),
    ],
)
def test_a_model_that_is_not_here_is_said_in_one_line(model, words, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("ROBUSTCLS_DOWNLOAD", raising=False)
    result = cli("attack", "--model", model, *SMALL)
    assert result.status == 2
    assert words in result.err.strip().splitlines()[-1]
    assert "Traceback" not in result.err


def test_a_state_dict_of_torchvision(cli, home, tmp_path):
    net = build("torchvision/squeezenet1_1", classes=["cat", "dog"], input_size=(3, 32, 32)).net
    torch.save(net.state_dict(), tmp_path / "w.pt")
    data = ("--data", f"folder:{home / 'images'}(size=32)", "--n", 4, "--eps", "1/255", "--device", "cpu")
    weights = ("--model", tmp_path / "w.pt", "--arch", "torchvision/squeezenet1_1", "--mean", "0.5", "--std", "0.5")
    result = cli("attack", *weights, *data, "--attack", "fgsm", "--out", tmp_path / "e.json")
    assert result.status == 0, result.err
    assert json.loads((tmp_path / "e.json").read_text())["model"]["arch"] == "torchvision/squeezenet1_1"


def test_a_file_with_an_unknown_operator_is_explained_without_gradients(cli, opaque_file, tmp_path):
    some = ("--model", opaque_file, *SMALL, "--attack", "noise", "--quiet")
    result = cli("explain", *some, "--method", "occlusion", "--pictures", 1, "--out", "maps")
    assert result.status == 0, result.err
    (method,) = Measures.load(tmp_path / "here" / "maps" / "measures.json").explanations.methods
    assert {check.id: check.status for check in method.checks}["parameter_randomisation"] == "not_run"
    result = cli("explain", *some, "--method", "saliency", "--out", "other")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "found no gradient" in result.err
    result = cli("explain", *some, "--out", "other")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "supports none of the default methods" in result.err
    result = cli("report", *some, "--examples", 2, "--out", "report.html")  # the default methods are left out
    assert result.status == 0, result.err
    assert "the model supports none of the methods" in (tmp_path / "here" / "report.html").read_text(encoding="utf-8")
