"""ONNX files written by tools other than PyTorch's exporters: types, order, names, and parts without a gradient."""

import numpy
import pytest
import torch
from torch import nn

from robustcls.models.onnx.net import OnnxNet
from robustcls.models.onnx.operators import STANDARD
from tests.helpers.onnx_files import SIZE, assert_is_the_file, export, save, twin_of

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
node, T, from_array = onnx.helper.make_node, onnx.TensorProto, onnx.numpy_helper.from_array

FLAT = node("Flatten", ["x"], ["f"])
PRODUCT = node("MatMul", ["f", "W"], ["y"])
FEW = numpy.arange(192 * 5).reshape(192, 5) % 8
WEIGHT = numpy.sin(numpy.arange(192 * 5, dtype=numpy.float32)).reshape(192, 5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=2), nn.Linear(8, 5)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu().mean((2, 3)))


def test_half_precision(tmp_path):
    """The converter appends casts after the nodes that use them."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    net = Net()
    half = convert_float_to_float16(onnx.load(export(net, tmp_path / "net.onnx")), keep_io_types=True)
    onnx.save(half, tmp_path / "half.onnx")
    net = assert_is_the_file(tmp_path / "half.onnx", near=0.01)
    assert all(one.dtype == torch.float32 for one in net.twin.buffers() if one.is_floating_point())


@pytest.mark.parametrize("output", ["in single precision", "in half"])
def test_gradients_of_a_confident_file_in_half_precision_do_not_underflow(output, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    net = Net().eval()
    half = convert_float_to_float16(onnx.load(export(net, tmp_path / "net.onnx")), keep_io_types=["x"])
    if output == "in single precision":
        half = convert_float_to_float16(onnx.load(tmp_path / "net.onnx"), keep_io_types=True)
    onnx.save(half, tmp_path / "half.onnx")
    x = torch.rand(4, *SIZE, requires_grad=True)
    found, expected = (
        torch.autograd.grad(1e-9 * f(x)[:, 0].sum(), x)[0] for f in (twin_of(tmp_path / "half.onnx"), net)
    )
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


def test_nodes_in_any_order_and_those_that_nothing_needs(tmp_path):
    nodes = [PRODUCT, node("Relu", ["g"], ["f"]), node("Flatten", ["x"], ["g"]), node("Hardmax", ["g"], ["unused"])]
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, [("W", WEIGHT)], check=False))


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2"])
def test_weights_of_few_bits(kind, tmp_path):
    weight = onnx.helper.make_tensor("w", getattr(T, kind), [192, 5], FEW.flatten().tolist())
    nodes = [FLAT, node("DequantizeLinear", ["w", "s"], ["W"]), PRODUCT]
    path = save(tmp_path / "net.onnx", nodes, [weight, ("s", numpy.float32(0.1))], opset=21, ir=10)
    assert_is_the_file(path, near=2e-3)  # onnxruntime also rounds the images before it multiplies by 4-bit weights


def test_weights_in_blocks(tmp_path):
    nodes = [FLAT, node("DequantizeLinear", ["w", "s"], ["W"], axis=0, block_size=32), PRODUCT]
    scales = numpy.linspace(0.1, 1, 30, dtype=numpy.float32).reshape(6, 5)
    path = save(tmp_path / "net.onnx", nodes, [("w", FEW.astype(numpy.int8)), ("s", scales)], opset=21, ir=10)
    assert_is_the_file(path, near=2e-3)


@pytest.mark.parametrize(("kind", "values"), [("INT4", (-8, 7)), ("UINT4", (0, 15)), ("UINT16", (0, 65535))])
def test_values_rounded_to_other_than_8_bits(kind, values, tmp_path):
    """Some values lie outside the range of the type, which is narrower than the type in which PyTorch stores them."""
    zero = onnx.helper.make_tensor("z", getattr(T, kind), [], [0])
    scale = numpy.float32(0.7 / max(values))
    nodes = [FLAT, node("QuantizeLinear", ["f", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    path = save(tmp_path / "net.onnx", nodes, [zero, ("s", scale)], opset=21, ir=10)
    assert_is_the_file(path, images=torch.rand(4, *SIZE) * 2 - 1)


def test_weights_in_bfloat16_and_those_in_a_sparse_form(tmp_path):
    weight = onnx.helper.make_tensor("w", T.BFLOAT16, [192, 5], WEIGHT.flatten().tolist())
    nodes = [FLAT, node("Cast", ["w"], ["W"], to=T.FLOAT), PRODUCT]
    assert_is_the_file(save(tmp_path / "brain.onnx", nodes, [weight]))
    values, places = numpy.float32([1, 2, 3]), numpy.int64([1, 7, 300])
    sparse = onnx.helper.make_sparse_tensor(from_array(values, "W"), from_array(places, ""), [192, 5])
    assert_is_the_file(save(tmp_path / "sparse.onnx", [FLAT, PRODUCT], sparse=[sparse], check=False))


def test_texts_in_the_file(tmp_path):
    constants = [from_array(numpy.array([b"a"], object), "label"), ("W", WEIGHT)]
    nodes = [node("Constant", [], ["text"], value_string=b"abc"), FLAT, PRODUCT]
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, constants))


def test_nodes_of_another_domain_without_names(tmp_path):
    constants = [("s", numpy.float32(0.01)), ("z", numpy.uint8(0)), ("W", WEIGHT)]
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("QLinearAdd", ["q", "s", "z", "q", "s", "z", "s", "z"], ["a"], domain="com.microsoft"),
        node("DequantizeLinear", ["a", "s", "z"], ["d"]), node("Flatten", ["d"], ["f"]), PRODUCT,
    ]  # fmt: skip
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, constants, opset=17, ir=8))


@pytest.mark.parametrize("to", [T.UINT16, T.UINT32, T.FLOAT16, T.BFLOAT16, T.FLOAT8E4M3FN, T.DOUBLE])
def test_casts_there_and_back(to, tmp_path):
    nodes = [node("Mul", ["x", "k"], ["a"]), node("Cast", ["a"], ["i"], to=to), node("Cast", ["i"], ["b"], to=T.FLOAT)]
    nodes += [node("Flatten", ["b"], ["y"])]
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, [("k", numpy.float32(255))], opset=19))


def test_a_resize_of_two_inputs(tmp_path):
    nodes = [node("Resize", ["x", "scales"], ["r"], mode="nearest"), node("Flatten", ["r"], ["y"])]
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, [("scales", numpy.float32([1, 1, 2, 2]))], opset=10, ir=5))


def test_the_mask_of_a_dropout(tmp_path):
    nodes = [
        node("Dropout", ["x"], ["d", "mask"]),
        node("Where", ["mask", "d", "zero"], ["w"]),
        node("Flatten", ["w"], ["y"]),
    ]
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, [("zero", numpy.float32(0))], opset=13))


def test_an_output_that_is_not_given_is_named_and_the_file_still_runs(tmp_path):
    nodes = [
        node("MaxPool", ["x"], ["p", "places"], kernel_shape=[2, 2]), node("Cast", ["places"], ["c"], to=T.FLOAT),
        node("Add", ["p", "c"], ["a"]), node("Flatten", ["a"], ["y"]),
    ]  # fmt: skip
    net = OnnxNet(save(tmp_path / "net.onnx", nodes))
    net.try_twin(SIZE)
    assert (net.differentiable, "MaxPool has no gradient here with 2 outputs" in net.no_gradient) == (False, True)
    assert net(torch.rand(3, *SIZE)).shape == (3, 147)


@pytest.mark.parametrize("error", [KeyError("odd"), AssertionError(), ValueError("two\nlines"), ZeroDivisionError()])
@pytest.mark.parametrize("when", ["reading", "running"])
def test_whatever_goes_wrong_in_the_twin_leaves_the_file(error, when, tmp_path, monkeypatch):
    def fail(*values):
        raise error

    monkeypatch.setitem(STANDARD, "Neg", fail)
    nodes = [node("Neg", ["c" if when == "reading" else "f"], ["n"]), node("Add", ["f", "n"], ["y"])]
    net = OnnxNet(save(tmp_path / "net.onnx", [FLAT, *nodes], [("c", numpy.float32(1))]))
    net.try_twin(SIZE)
    assert (net.differentiable, "Neg" in net.no_gradient, "\n" in net.no_gradient) == (False, True, False)
    assert net(torch.rand(2, *SIZE)).shape == (2, 192)


def test_a_reader_that_fails_leaves_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("robustcls.models.onnx.graph.types_of", lambda graph: {}["W"])
    net = OnnxNet(save(tmp_path / "net.onnx", [FLAT, PRODUCT], [("W", WEIGHT)]))
    assert (net.differentiable, net.no_gradient) == (False, f"no gradient of {net.path}: KeyError: 'W'")
    assert net(torch.rand(2, *SIZE)).shape == (2, 5)
