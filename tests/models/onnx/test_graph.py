"""The PyTorch twin of an ONNX file: each operator against the examples of the standard, and gradients through rounding."""

from contextlib import nullcontext
from functools import partial

import numpy
import pytest
import torch
from torch import nn

from robustcls.models.onnx.graph import OnnxGraph, _arguments
from robustcls.models.onnx.net import OnnxNet
from robustcls.models.onnx.operators import STANDARD
from robustcls.models.onnx.operators.rounding import DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear
from robustcls.models.onnx.operators.straight import gradients_past_ranges
from robustcls.models.onnx.reading import NoTwin, function_of, prepared, types_of
from tests.helpers import onnx_files

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper = onnx.helper
save = partial(onnx_files.save, x=("n", 1, 2, 2), y=("n", 4))

# The standard has no example of these in types that PyTorch has. They are tested below or by exported networks.
WITHOUT_EXAMPLE = {"ConvInteger", "CumSum", "DynamicQuantizeLinear", "LayerNormalization", "QLinearConv", "TopK"}
FLOATS_OF_TORCH = (numpy.float32, numpy.float64, numpy.int64, numpy.int32, numpy.int8, numpy.uint8, numpy.bool_)


def examples_of_the_standard():
    """Yield (name, model, inputs, output) of every case with one output and types of PyTorch whose operators the twin has."""
    from onnx.backend.test.loader import load_model_tests

    with numpy.errstate(all="ignore"):
        cases = load_model_tests(kind="node")
    for case in cases:
        if case.model is None or not all(map(function_of, case.model.graph.node)):
            continue
        for inputs, outputs in case.data_sets or ():
            arrays = [*inputs, *outputs]
            plain = all(isinstance(one, numpy.ndarray) and one.dtype.type in FLOATS_OF_TORCH for one in arrays)
            if plain and len(outputs) == 1:
                yield case.name, case.model, inputs, outputs[0]


def run(model, inputs):
    values = {one.name: torch.from_numpy(array.copy()) for one, array in zip(model.graph.input, inputs, strict=True)}
    for node in model.graph.node:
        function, attributes = prepared(node, model.opset_import[0].version, types_of(model.graph))
        result = function(*_arguments(node.input, values), **attributes)
        values.update(zip(node.output, result if isinstance(result, tuple) else (result,), strict=False))
    return values[model.graph.output[0].name].numpy()


@pytest.mark.slow
def test_every_example_of_the_standard_comes_out_or_is_refused():
    right, refused, wrong = set(), [], []
    with numpy.errstate(all="ignore"):
        for name, model, inputs, expected in examples_of_the_standard():
            operators = {node.op_type for node in model.graph.node}
            try:
                found = run(model, inputs)
            except (NotImplementedError, NoTwin):
                refused.append(name)
                continue
            except IndexError:
                assert "empty" in name, name  # a reduction of an empty tensor, which images are not
                continue
            close = found.shape == expected.shape and numpy.allclose(
                found.astype(float), expected.astype(float), rtol=1e-3, atol=1e-5, equal_nan=True
            )
            right |= operators if close else set()
            wrong += [] if close else [name]
    assert wrong == []
    assert STANDARD.keys() - right - {"Constant"} <= WITHOUT_EXAMPLE
    assert len(refused) < 70


def test_an_unknown_operator_is_named_and_the_file_still_runs(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Hardmax", ["x"], ["h"]), helper.make_node("Flatten", ["h"], ["y"])],
    )
    with pytest.raises(NoTwin, match="Hardmax"):
        OnnxGraph(path)
    net = OnnxNet(path)
    assert (net.differentiable, "Hardmax" in net.no_gradient) == (False, True)
    assert net(torch.rand(3, 1, 2, 2)).shape == (3, 4)


def test_an_option_that_no_function_covers_is_found_before_the_attack(tmp_path):
    resize = helper.make_node("Resize", ["x", "", "scales"], ["r"], mode="cubic")
    flat = helper.make_node("Flatten", ["r"], ["y"])
    path = save(tmp_path / "net.onnx", [resize, flat], [("scales", numpy.float32([1, 1, 2, 2]))], y=("n", 16))
    net = OnnxNet(path)
    assert net.differentiable
    net.try_twin((1, 2, 2))
    assert (net.differentiable, "Resize" in net.no_gradient) == (False, True)


def test_without_onnx_the_file_runs_without_gradients(tmp_path, monkeypatch):
    path = save(tmp_path / "net.onnx", [helper.make_node("Flatten", ["x"], ["y"])])
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    net = OnnxNet(path)
    assert "pip install 'robustcls[onnx]'" in net.no_gradient
    assert net(torch.rand(2, 1, 2, 2)).shape == (2, 4)


def test_weights_in_8_bits_are_decoded_once(tmp_path):
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["weight"], axis=1),
        helper.make_node("MatMul", ["f", "weight"], ["y"]),
    ]
    w = numpy.arange(16, dtype=numpy.int8).reshape(4, 4)
    constants = [("w", w), ("s", numpy.float32([1, 2, 3, 4])), ("z", numpy.int8([0, 0, 0, 1]))]
    graph = OnnxGraph(save(tmp_path / "net.onnx", nodes, constants))
    assert [node.title for node in graph.nodes.values()] == ["Flatten", "MatMul"]
    (weight,) = graph.buffers()
    torch.testing.assert_close(weight, (torch.tensor(w) - torch.tensor([0, 0, 0, 1])) * torch.tensor([1.0, 2, 3, 4]))


def gradient(x, function):
    x = x.clone().requires_grad_()
    y = function(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


@pytest.mark.parametrize(("past", "above"), [(False, 0.0), (True, 1.0)])
def test_rounding_passes_the_gradient_and_a_range_from_zero_is_a_relu(past, above):
    x, scale, zero = torch.tensor([-1.0, -0.01, 0.03, 0.5, 99.0]), torch.tensor(0.1), torch.tensor(0, dtype=torch.uint8)
    with gradients_past_ranges() if past else nullcontext():
        y, grad = gradient(x, lambda x: DequantizeLinear(QuantizeLinear(x, scale, zero), scale, zero))
    torch.testing.assert_close(y, torch.tensor([0.0, 0.0, 0.0, 0.5, 25.5]))
    torch.testing.assert_close(grad, torch.tensor([0.0, 0.0, 1.0, 1.0, above]))


@pytest.mark.parametrize(("past", "outside"), [(False, 0.0), (True, 1.0)])
def test_a_range_that_holds_zero_is_the_same_on_both_sides(past, outside):
    x, scale, zero = torch.tensor([-99.0, -0.2, 0.3, 99.0]), torch.tensor(0.1), torch.tensor(100, dtype=torch.uint8)
    with gradients_past_ranges() if past else nullcontext():
        y, grad = gradient(x, lambda x: DequantizeLinear(QuantizeLinear(x, scale, zero), scale, zero))
    torch.testing.assert_close(y, torch.tensor([-10.0, -0.2, 0.3, 15.5]))
    torch.testing.assert_close(grad, torch.tensor([outside, 1, 1, outside]))


@pytest.mark.parametrize(("lowest", "below"), [(0.0, 0.0), (-0.5, 1.0)])
def test_past_the_range_of_a_clip_the_gradient_passes_but_for_a_relu(lowest, below):
    x = torch.tensor([-2.0, 0.2, 9.0])
    clip = STANDARD["Clip"]
    y, grad = gradient(x, lambda x: clip(x, torch.tensor(lowest), torch.tensor(6.0)))
    torch.testing.assert_close(grad, torch.tensor([0.0, 1.0, 0.0]))
    with gradients_past_ranges():
        past, grad = gradient(x, lambda x: clip(x, torch.tensor(lowest), torch.tensor(6.0)))
    torch.testing.assert_close(past, y)
    torch.testing.assert_close(grad, torch.tensor([below, 1.0, 1.0]))


def test_ranges_of_the_batch_pass_the_gradient():
    x = torch.linspace(-1, 2, 7)
    y, grad = gradient(x, lambda x: DequantizeLinear(*DynamicQuantizeLinear(x)))
    torch.testing.assert_close(y, x, atol=3 / 255, rtol=0)
    torch.testing.assert_close(grad, torch.ones(7))


@pytest.mark.parametrize("quantised", ["QDQ", "QOperator", "dynamic"])
def test_8_bit_files_of_onnxruntime(quantised, tmp_path):
    """In files of onnxruntime's three ways to quantise, the twin gives nearly the same labels as onnxruntime, and a gradient
    near that of the floating-point network."""
    from onnxruntime import quantization as q

    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    ).eval()  # fmt: skip
    images = torch.rand(64, 3, 12, 12)
    source, target = str(tmp_path / "float.onnx"), str(tmp_path / "rounded.onnx")
    with __import__("warnings").catch_warnings(action="ignore"):
        torch.onnx.export(
            net, (images[:2],), source, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}, opset_version=17
        )

    class Reader(q.CalibrationDataReader):
        batches = iter(images.split(16))

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch.numpy()}

    if quantised == "dynamic":
        q.quantize_dynamic(source, target, weight_type=q.QuantType.QUInt8)
    else:
        q.quantize_static(source, target, Reader(), quant_format=q.QuantFormat[quantised])
    rounded, twin = OnnxNet(target), OnnxGraph(target)
    spread = rounded(images).std(0).mean()
    assert (rounded(images) - twin(images)).abs().max() < 0.2 * spread
    assert (rounded(images).argmax(1) == twin(images).argmax(1)).float().mean() > 0.95
    _, expected = gradient(images, lambda x: net(x)[:, 0])
    _, found = gradient(images, lambda x: rounded(x)[:, 0])
    assert torch.nn.functional.cosine_similarity(found.flatten(1), expected.flatten(1)).mean() > 0.9
