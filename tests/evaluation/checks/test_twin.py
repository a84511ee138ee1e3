"""Whether the PyTorch graph of an exported file predicts the same as the file."""

import warnings

import pytest
import torch
from torch import nn

from robustcls.models.onnx.net import load_onnx
from tests.helpers.eval_models import LINF, evaluated, make_batch, make_net

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


@pytest.fixture
def path(tmp_path):
    net = make_net()
    plain = nn.Sequential(*net.body, nn.Flatten(), net.head).eval()
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            plain, (torch.rand(2, 3, 8, 8),), tmp_path / "net.onnx", dynamo=False, input_names=["images"],
            output_names=["logits"], dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}}, opset_version=17,
        )  # fmt: skip
    return tmp_path / "net.onnx"


def load(path):
    return load_onnx(path, classes=list("abcd"), input_size=(3, 8, 8))


def check_of(model, attacks=("fgsm",)):
    evaluation = evaluated(model, *make_batch(), LINF, list(attacks)).evaluation
    return next((check for check in evaluation.checks if check.id == "twin"), None)


def test_the_graph_of_a_file_is_its_twin(path):
    found = check_of(load(path))
    assert (found.status, found.measured) == ("pass", 0.0)
    assert "100.0% of 60 labels" in found.message


def test_a_graph_that_gives_other_labels_fails(path):
    model = load(path)
    with torch.no_grad():
        for constant in model.net.twin.buffers():
            constant.neg_()
    found = check_of(model)
    assert found.status == "fail"
    assert found.measured > 0.02
    assert "gradients mislead" in found.message


def test_of_a_file_without_a_gradient_the_operator_is_named(path):
    model = onnx.load(path)
    model.graph.node[-1].output[:] = ["before"]
    model.graph.node.append(onnx.helper.make_node("Shrink", ["before"], ["logits"], bias=0.0, lambd=0.0))
    onnx.save(model, path)
    found = check_of(load(path), ["square(queries=5)"])
    assert (found.status, found.measured) == ("not_run", None)
    assert "Shrink" in found.message


def test_of_another_model_there_is_nothing_to_say():
    assert check_of(make_net()) is None
