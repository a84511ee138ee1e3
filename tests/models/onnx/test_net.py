"""ONNX files: their logits, and files that are not image classifiers."""

import hashlib
import sys
import warnings

import pytest
import torch
from torch import nn

from robustcls.core.classifier import device_of, dtype_of
from robustcls.core.errors import InputError
from robustcls.core.files import sha256
from robustcls.core.gradients import frozen, input_gradient
from robustcls.models.loading import build_model, fit_to_data, read_model
from robustcls.models.onnx.net import hash_onnx
from robustcls.models.onnx.operators import STANDARD
from robustcls.models.onnx.operators.straight import straight_through
from robustcls.runtime.fused import Counted
from robustcls.runtime.search import make_search_model

SIZE, CLASSES = (3, 8, 8), ["a", "b", "c"]


@pytest.fixture
def runtime():
    pytest.importorskip("onnxruntime")
    return pytest.importorskip("onnx")


@pytest.fixture
def net(runtime):
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()


def export(net, path, batch=2, open_dims=(0,), names=("x",), outputs=("logits",)):
    """Export with the exporter that only needs onnx; return the path."""
    x = torch.rand(batch, *SIZE)
    open_dims = {name: {dim: f"d{dim}" for dim in open_dims} for name in (*names, *outputs)}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            net, tuple(x for _ in names), path, dynamo=False, input_names=list(names), output_names=list(outputs),
            dynamic_axes={name: {d: n for d, n in dims.items() if name in names or d == 0} for name, dims in open_dims.items()},
        )  # fmt: skip
    return path


def load(path, classes=CLASSES, input_size=SIZE, **options):
    return build_model(read_model(str(path)), arch=None, classes=classes, input_size=input_size, **options)


@pytest.mark.parametrize("open_dims", [(0,), ()], ids=["any batch", "batches of four"])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_the_logits_are_the_networks(open_dims, count, net, tmp_path):
    loaded = load(export(net, tmp_path / "net.onnx", batch=4, open_dims=open_dims))
    x = torch.rand(count, *SIZE)
    torch.testing.assert_close(loaded.model(x), net(x).detach(), rtol=1e-4, atol=1e-5)
    assert (loaded.name, len(loaded.sha256), list(loaded.model.classes)) == ("net.onnx", 64, CLASSES)
    assert "`mean`" in loaded.notes[0]


def test_a_normalisation_is_done_before(net, tmp_path):
    loaded = load(export(net, tmp_path / "net.onnx"), mean=[0.5], std=[0.25])
    x = torch.rand(2, *SIZE)
    torch.testing.assert_close(loaded.model(x), net((x - 0.5) / 0.25).detach(), rtol=1e-4, atol=1e-5)
    assert loaded.notes == []


def test_it_is_a_module_whose_logits_are_always_onnxruntimes(net, tmp_path):
    model = load(export(net, tmp_path / "net.onnx")).model
    assert model.differentiable is True
    assert (device_of(model), dtype_of(model)) == (torch.device("cpu"), torch.float32)
    x = torch.rand(2, *SIZE, requires_grad=True)
    with frozen(model):
        assert model(x).requires_grad
        assert torch.equal(model(x), model(x.detach()))
    search = make_search_model(model, "fp32", x.detach())
    assert isinstance(search, Counted)
    assert torch.equal(search(x), model(x))


def test_gradients_are_the_networks(net, tmp_path):
    model = load(export(net, tmp_path / "net.onnx"), mean=[0.5], std=[0.25]).model
    x, y = torch.rand(4, *SIZE), torch.tensor([0, 1, 2, 0])
    expected = input_gradient(lambda images: net((images - 0.5) / 0.25), x, y)
    torch.testing.assert_close(input_gradient(model, x, y), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [2, 4])
def test_gradients_of_a_file_with_a_fixed_batch(batch, net, tmp_path):
    model = load(export(net, tmp_path / "net.onnx", batch=batch, open_dims=())).model
    x, y = torch.rand(5, *SIZE), torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(input_gradient(model, x, y), input_gradient(net, x, y), rtol=1e-4, atol=1e-6)


def test_what_the_file_leaves_open_is_the_datas(net, tmp_path):
    assert load(export(net, tmp_path / "a.onnx", open_dims=(0, 2, 3)), input_size=(3, 12, 9)).model.input_size == (
        3,
        12,
        9,
    )
    assert load(export(net, tmp_path / "b.onnx"), input_size=(3, 12, 9)).model.input_size == SIZE


def test_weights_beside_the_file_count_for_its_hash(net, tmp_path):
    path = export(net, tmp_path / "net.onnx")
    alone = read_model(str(path)).sha256
    (tmp_path / "net.onnx.data").write_bytes(b"weights")
    assert read_model(str(path)).sha256 != alone


class Two(nn.Module):
    def forward(self, a, b=None):
        return (a.mean((2, 3)), a.sum((2, 3))) if b is None else (a + b).mean((2, 3))


class Last(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2).mean((2, 3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: export(Two(), path, names=("a", "b")), r"2 inputs \(a, b\)"),
        (lambda path: export(Two(), path, outputs=("logits", "features")), r"2 outputs \(logits, features\)"),
        (lambda path: export(nn.Identity(), path), "gives shape .*: export it with logits N,K"),
        (lambda path: export(nn.Sequential(nn.AvgPool2d(8), nn.Flatten(0)), path), "gives shape"),
        (lambda path: path.write_bytes(b"hello"), "cannot read .*net.onnx"),
        (lambda path: path.write_bytes(b""), "cannot read .*net.onnx"),
    ],
)
def test_what_is_no_classifier_is_said_in_one_line(make, words, runtime, tmp_path):
    make(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=words) as caught:
        load(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("FLOAT", ["n", 8, 8, 3], "N,H,W,C"),
        ("UINT8", ["n", 3, 8, 8], "float32"),
        ("FLOAT", ["n", 192], "float32 images"),
    ],
)
def test_inputs_that_are_no_images(kind, shape, words, runtime, tmp_path):
    helper, types = runtime.helper, runtime.TensorProto
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=types.FLOAT), helper.make_node("Flatten", ["f"], ["y"])]
    x = helper.make_tensor_value_info("x", getattr(types, kind), shape)
    y = helper.make_tensor_value_info("y", types.FLOAT, ["n", 192])
    opset = [helper.make_opsetid("", 17)]
    runtime.save(
        helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opset, ir_version=8),
        tmp_path / "net.onnx",
    )
    with pytest.raises(InputError, match=words):
        load(tmp_path / "net.onnx")


def test_a_model_for_other_classes(net, tmp_path):
    loaded = load(export(net, tmp_path / "net.onnx"), classes=["a", "b"])
    assert list(loaded.model.classes) == ["0", "1", "2"]
    with pytest.raises(InputError, match="3 outputs"):
        fit_to_data(loaded, torch.rand(2, *SIZE), ["a", "b"])


def test_no_file():
    with pytest.raises(InputError, match="no file nothing.onnx"):
        read_model("nothing.onnx")


def test_an_onnxruntime_that_is_not_installed_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "net.onnx").write_bytes(b"1")
    with pytest.raises(InputError, match=r"pip install 'robustcls\[onnx\]'"):
        load(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("relu", "words"),
    [
        (lambda x: x.relu() * 1.1 + 0.1, "has other outputs: they differ by"),
        (lambda x: x.relu()[:1], "has outputs of shape (1, 3), the file (2, 3)"),
        (lambda x: x.relu() / 0 * 0, "has outputs that are not finite where the file's are"),
    ],
)
def test_a_twin_that_is_another_function_is_given_up_and_said(relu, words, net, tmp_path, monkeypatch):
    monkeypatch.setitem(STANDARD, "Relu", relu)
    model = load(export(net, tmp_path / "net.onnx")).model
    assert (model.differentiable, words in model.net.no_gradient) == (False, True)
    torch.testing.assert_close(model(torch.ones(2, *SIZE)), net(torch.ones(2, *SIZE)).detach(), rtol=1e-4, atol=1e-5)


def test_a_twin_that_rounds_the_other_way_is_kept(runtime, tmp_path, monkeypatch):
    class Coarse(nn.Module):
        def forward(self, x):
            return (x * 4).round().mean((2, 3))

    path = export(Coarse(), tmp_path / "net.onnx")
    monkeypatch.setitem(STANDARD, "Round", lambda x: straight_through(x, (x + 0.1).round()))
    assert load(path).model.net.no_gradient == ""


def test_weights_beside_the_file_under_any_name_count_for_its_hash(net, runtime, tmp_path):
    path = tmp_path / "net.onnx"
    model = runtime.load(export(net, tmp_path / "whole.onnx"))
    runtime.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = read_model(str(path)).sha256
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(weights)
    assert read_model(str(path)).sha256 != before


def test_hashes_of_the_usual_layouts_are_those_of_earlier_evaluations(net, runtime, tmp_path):
    whole, path = tmp_path / "whole.onnx", tmp_path / "net.onnx"
    model = runtime.load(export(net, whole))
    assert hash_onnx(whole) == sha256(whole)
    runtime.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    both = sha256(path) + sha256(tmp_path / "net.onnx.data")
    assert hash_onnx(path) == hashlib.sha256(both.encode()).hexdigest()
