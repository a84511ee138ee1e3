"""Operators of the twin beside onnxruntime, in files as exporters and quantisers write them."""

import numpy
import pytest
import torch
from torch import nn

from robustcls.models.onnx.net import OnnxNet
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
    """`x.view(x.size(0), -1)`, where the exporter picks a single number of a shape."""
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
