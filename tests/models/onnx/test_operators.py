"""Operators of the twin against onnxruntime, in files as exporters and quantisers write them."""

import numpy
import pytest
import torch
from torch import nn

from robustcls.models.onnx.net import OnnxNet
from robustcls.models.onnx.operators.rounding import QLinearMatMul
from tests.helpers.onnx_files import SIZE, assert_is_the_file, export, save

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
node = onnx.helper.make_node


class Body(nn.Module):
    """A convolution, a function, and a linear layer."""

    def __init__(self, function, outputs=5):
        super().__init__()
        self.first, self.function = nn.Conv2d(3, 8, 3, padding=1), function
        self.last = nn.Linear(self.core(torch.rand(1, *SIZE)).shape[1], outputs)

    def core(self, x):
        return self.function(self.first(x)).flatten(1)

    def forward(self, x):
        return self.last(self.core(x))


def test_sizes_taken_from_the_batch(tmp_path):
    """This is `x.view(x.size(0), -1)`, for which the exporter picks a single number from a shape."""
    net = Body(lambda h: h.relu().view(h.size(0), -1))
    path = export(net, tmp_path / "net.onnx")
    assert "Gather" in {one.op_type for one in onnx.load(path).graph.node}
    assert_is_the_file(path, source=net)


def test_attributes_at_the_default_of_the_standard(tmp_path):
    net = nn.Sequential(nn.BatchNorm2d(3), Body(nn.ReLU()))
    path = export(net, tmp_path / "norm.onnx", opset=17)
    assert "training_mode" in {one.name for node in onnx.load(path).graph.node for one in node.attribute}
    assert_is_the_file(path, source=net)
    net = Body(lambda h: nn.functional.interpolate(h, (16, 16), mode="bilinear").mean((2, 3)))
    path = export(net, tmp_path / "resize.onnx", dynamo=True)
    assert "keep_aspect_ratio_policy" in {one.name for node in onnx.load(path).graph.node for one in node.attribute}
    assert_is_the_file(path, source=net)


def test_an_attribute_that_changes_what_is_done_is_named(tmp_path):
    nodes = [
        node("Resize", ["x", "", "", "size"], ["r"], mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
        node("Flatten", ["r"], ["y"]),
    ]
    net = OnnxNet(save(tmp_path / "net.onnx", nodes, [("size", numpy.int64([4, 6]))]))
    assert "Resize with axes, keep_aspect_ratio_policy has no gradient here" in net.no_gradient


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [1, 2, -1, -2, -3])
def test_softmax_over_an_axis_counted_from_the_end(operator, opset, axis, tmp_path):
    nodes = [node(operator, ["x"], ["s"], axis=axis), node("Flatten", ["s"], ["y"])]
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, opset=opset))


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("pads", [[1] * 4, [0, 0, 1, 1], [1, 1, 0, 0], [2] * 4, [0, 0, 2, 2]], ids=str)
@pytest.mark.parametrize("options", [{}, {"count_include_pad": 0}, {"count_include_pad": 1}], ids=str)
def test_pooling_whose_windows_reach_beyond_the_image(options, pads, ceil_mode, tmp_path):
    """Windows that would begin in the padding do not exist, and values that ceil_mode adds do not count in averages."""
    operator = "AveragePool" if options else "MaxPool"
    for stride, size in ((2, 8), (2, 9), (3, 8), (3, 9), (3, 10)):
        pool = node(
            operator, ["x"], ["p"], kernel_shape=[3, 3], strides=[stride] * 2, pads=pads, ceil_mode=ceil_mode, **options
        )
        shape = (3, size, size)
        path = save(tmp_path / "net.onnx", [pool, node("Flatten", ["p"], ["y"])], x=("n", *shape), opset=13)
        assert_is_the_file(path, shape)


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_the_factor_of_a_quantised_product_counts_for_its_bias(alpha, tmp_path):
    weight = (numpy.arange(192 * 5).reshape(192, 5) % 16 - 8).astype(numpy.int8)
    constants = [
        ("s", numpy.float32(0.01)), ("z", numpy.uint8(0)), ("w", weight), ("ws", numpy.float32(0.02)),
        ("wz", numpy.int8(0)), ("c", numpy.arange(5, dtype=numpy.int32) * 1000),
    ]  # fmt: skip
    nodes = [
        node("Flatten", ["x"], ["f"]), node("QuantizeLinear", ["f", "s", "z"], ["q"]),
        node("QGemm", ["q", "s", "z", "w", "ws", "wz", "c"], ["y"], domain="com.microsoft", alpha=alpha),
    ]  # fmt: skip
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, constants, opset=17, ir=8))


def test_ranges_of_a_batch_of_zeros(tmp_path):
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Flatten", ["d"], ["y"]),
    ]  # fmt: skip
    assert_is_the_file(save(tmp_path / "net.onnx", nodes), images=torch.zeros(2, *SIZE))


def test_a_scale_for_each_row_of_a_quantised_product():
    rows, columns = torch.tensor([0.1, 0.2]), torch.tensor([1.0, 2.0, 3.0])
    a, b = torch.randint(0, 9, (2, 4)), torch.randint(0, 9, (4, 3))
    zero, one = torch.tensor(0, dtype=torch.uint8), torch.tensor(1.0)
    found = QLinearMatMul(
        a, rows, torch.zeros(2, dtype=torch.uint8), b, columns, torch.zeros(3, dtype=torch.uint8), one, zero
    )
    expected = ((a * rows[:, None]) @ (b * columns)).round().clamp(0, 255)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("to", ["UINT8", "INT8", "INT32", "INT64", "UINT16"])
def test_a_cast_to_whole_numbers_is_rounding_whose_gradient_passes(to, tmp_path):
    nodes = [
        node("Mul", ["x", "k"], ["a"]), node("Cast", ["a"], ["i"], to=getattr(onnx.TensorProto, to)),
        node("Cast", ["i"], ["b"], to=onnx.TensorProto.FLOAT), node("Mul", ["b", "back"], ["c"]), node("Flatten", ["c"], ["y"]),
    ]  # fmt: skip
    constants = [("k", numpy.float32(100)), ("back", numpy.float32(0.01))]
    net = assert_is_the_file(save(tmp_path / "net.onnx", nodes, constants))
    x = torch.rand(2, *SIZE, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(net(x).sum(), x)[0], torch.ones_like(x))


def test_indices_made_of_the_images_stay_whole_numbers(tmp_path):
    """Rounded pixels are indices into a table of squares. Only the other summand, the pixels themselves, has a gradient."""
    nodes = [
        node("Flatten", ["x"], ["f"]), node("Mul", ["f", "k"], ["a"]), node("Cast", ["a"], ["i"], to=onnx.TensorProto.INT64),
        node("Gather", ["table", "i"], ["t"]), node("Add", ["t", "f"], ["y"]),
    ]  # fmt: skip
    constants = [("k", numpy.float32(9)), ("table", numpy.arange(10, dtype=numpy.float32) ** 2)]
    net = assert_is_the_file(save(tmp_path / "net.onnx", nodes, constants))
    x = torch.rand(2, *SIZE, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(net(x).sum(), x)[0], torch.ones_like(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, h):
        tokens = h.flatten(2).transpose(1, 2)
        return self.inner(tokens, tokens, tokens, need_weights=False)[0]


FUNCTIONS = {
    "attention": Attention(),
    "ConvTranspose": nn.ConvTranspose2d(8, 4, 3, 2, padding=1, output_padding=1),
    "TopK": lambda h: h.flatten(2).topk(4, -1).values,
    "CumSum": lambda h: h.cumsum(1),
    "ReduceLogSum": lambda h: h.square().sum(1).log(),
    "Upsample": nn.Upsample(scale_factor=2),
    "GatherND": lambda h: h[:, [0, 3], [1, 2]],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_modules_as_the_older_exporter_writes_them(name, tmp_path):
    net = Body(FUNCTIONS[name])
    assert_is_the_file(export(net, tmp_path / "net.onnx", opset=9 if name == "Upsample" else 17), source=net)


QUANTISED = [("s", numpy.float32(0.01)), ("z", numpy.uint8(40)), ("t", numpy.float32(0.02)), ("u", numpy.uint8(9))]
ON_QUANTISED = {
    "QLinearAveragePool": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "QLinearLeakyRelu": {"alpha": 0.2},
}


@pytest.mark.parametrize("operator", ON_QUANTISED)
def test_operators_between_whole_numbers(operator, tmp_path):
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"], domain="com.microsoft"),
        node(operator, ["q", "s", "z", "t", "u"], ["p"], domain="com.microsoft", **ON_QUANTISED[operator]),
        node("DequantizeLinear", ["p", "t", "u"], ["d"], domain="com.microsoft"), node("Flatten", ["d"], ["y"]),
    ]  # fmt: skip
    path = save(tmp_path / "net.onnx", nodes, QUANTISED, opset=17, ir=8)
    assert_is_the_file(path, images=torch.rand(4, *SIZE) * 3 - 0.5, near=0.015)  # ties may differ by one step


@pytest.mark.parametrize(("activation", "numbers"), [("Relu", None), ("LeakyRelu", [0.2]), ("Clip", [-0.1, 0.3])])
def test_a_convolution_fused_with_its_activation(activation, numbers, tmp_path):
    more = {"activation_params": numbers} if numbers else {}
    nodes = [
        node("FusedConv", ["x", "w"], ["c"], domain="com.microsoft", activation=activation, **more),
        node("Flatten", ["c"], ["y"]),
    ]
    weight = numpy.sin(numpy.arange(4 * 27, dtype=numpy.float32)).reshape(4, 3, 3, 3)
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, [("w", weight)], opset=17, ir=8))


@pytest.mark.parametrize("operator", ["Gelu", "QuickGelu"])
def test_activations_of_another_domain(operator, tmp_path):
    nodes = [node(operator, ["x"], ["g"], domain="com.microsoft"), node("Flatten", ["g"], ["y"])]
    assert_is_the_file(save(tmp_path / "net.onnx", nodes))


@pytest.mark.parametrize(
    ("scales", "options", "words"),
    [
        ([1, 1, 0.5, 0.5], {"antialias": 1}, "Resize with antialias"),
        ([1, 1, 1.3, 1.3], {}, "Resize with a size that is not a whole number"),
        ([1, 1, 2, 2], {"coordinate_transformation_mode": "asymmetric"}, "Resize linear with coordinates asymmetric"),
        ([1, 2, 1, 1], {}, "other dimensions than height and width"),
    ],
)
def test_the_true_reason_of_a_resize_that_is_refused(scales, options, words, tmp_path):
    nodes = [node("Resize", ["x", "", "s"], ["r"], mode="linear", **options), node("Flatten", ["r"], ["y"])]
    net = OnnxNet(save(tmp_path / "net.onnx", nodes, [("s", numpy.float32(scales))]))
    net.try_twin(SIZE)
    assert words in net.no_gradient


@pytest.mark.parametrize("options", [{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}], ids=str)
def test_running_sums(options, tmp_path):
    nodes = [node("CumSum", ["x", "axis"], ["s"], **options), node("Flatten", ["s"], ["y"])]
    assert_is_the_file(save(tmp_path / "net.onnx", nodes, [("axis", numpy.int64(2))]))
