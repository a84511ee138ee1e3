"""Small ONNX files made node by node, and a check that the PyTorch twin of a file computes the same."""

import io
import warnings
from contextlib import redirect_stderr, redirect_stdout

import numpy
import torch

from robustcls.models.onnx.net import load_onnx

SIZE = (3, 8, 8)


def save(
    path, nodes, constants=(), x=("n", *SIZE), y=("n", None), opset=18, ir=9, domains=("com.microsoft",), sparse=(),
    check=True,
):  # fmt: skip
    """Save a file of nodes from `x` to `y`, and return its path. constants: (name, array) pairs, or onnx tensors."""
    import onnx

    helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
    tensors = [
        one if isinstance(one, onnx.TensorProto) else onnx.numpy_helper.from_array(numpy.asarray(one[1]), one[0])
        for one in constants
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, x)], [helper.make_tensor_value_info("y", FLOAT, y)],
        tensors, sparse_initializer=list(sparse),
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    if check:
        onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


def export(net, path, size=SIZE, *, dynamo=False, opset=18):
    """Export a PyTorch module with one of PyTorch's two exporters, and return the path."""
    options = {"external_data": False, "verbose": False, "dynamic_shapes": ({0: torch.export.Dim("n")},)}
    if not dynamo:
        options = {"dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    silent = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
    with warnings.catch_warnings(action="ignore"), silent[0], silent[1]:
        torch.onnx.export(
            net.eval(), (torch.rand(2, *size),), str(path), dynamo=dynamo, opset_version=opset,
            input_names=["x"], output_names=["y"], **options,
        )  # fmt: skip
    return str(path)


def twin_of(path, size=SIZE):
    """Load the file as `--model` does, and return its network, which must have a twin."""
    net = load_onnx(path, classes=["a", "b"], input_size=size).net
    assert net.no_gradient == ""
    return net


def assert_is_the_file(path, size=SIZE, *, source=None, near=1e-4, images=None):
    """Assert that the twin has the logits of onnxruntime and, given a source module, the gradients of that module."""
    net = twin_of(path, size)
    x = torch.rand(4, *size) if images is None else images
    logits, twin_logits = net(x), net.twin(x)
    assert twin_logits.shape == logits.shape
    off = (twin_logits - logits).abs().max().item()
    assert off <= near * max(logits.abs().max().item(), 1e-6)
    if source is not None:
        torch.testing.assert_close(logits, source(x).detach(), rtol=1e-3, atol=1e-4)
        expected, found = (_gradient(function, x) for function in (source, net))
        assert (found - expected).abs().max() <= near * expected.abs().max()
    return net


def _gradient(function, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x)[:, 0].sum(), x)[0]
