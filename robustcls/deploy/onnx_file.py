"""Write a module as one ONNX file."""

import contextlib
import copy
import io
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError, one_line
from robustcls.core.progress import Bar
from robustcls.models.onnx.net import OnnxNet

OPSET = 18
STEPS = 4  # steps that torch.onnx.export reports: trace, decompose, translate, optimise
INPUT, OUTPUT = "images", "logits"
WEIGHTED = ("Conv", "Gemm", "MatMul")
NEEDS = "export needs onnx, onnxscript and onnxruntime: pip install 'robustcls[onnx]'"


def write_onnx(model: nn.Module, path: str | Path, input_size: Sequence[int], *, progress: bool = False) -> None:
    """Export a model on [0, 1] pixels: input `images` N,C,H,W, output `logits` N,K, any N, with the weights inside the file.

    Args:
        model: returns logits N,K; it is copied to the CPU and not changed. The file of a model that is an ONNX file is copied.
        path: path of the file to write.
        input_size: (C, H, W).
        progress: show a progress bar of the exporter's steps.

    Raises:
        InputError: if PyTorch cannot export the model; the message gives the operator or the reason.
    """
    if isinstance(net := getattr(model, "net", model), OnnxNet):
        _copy_onnx(model, net, path)
        return
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError:
        raise InputError(NEEDS) from None
    copied = _on_cpu(model)
    images = torch.full((2, *input_size), 0.5)  # with a batch of one, the exporter would fix the batch size
    try:
        with Bar(STEPS, "exporting", "step", show=progress) as bar, _silence(_Counted(bar)):
            program: Any = torch.onnx.export(
                _Logits(copied), (images,), dynamo=True, opset_version=OPSET, optimize=True, verbose=True,
                input_names=[INPUT], output_names=[OUTPUT], dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            )  # fmt: skip
            program.save(str(path), external_data=False)
    except Exception as error:  # the exporter raises whatever tracing, decomposition or translation raises
        raise InputError(f"{_name(model)} cannot be exported: {_reason(error)}") from None
    written = onnx.load(str(path))
    if written.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
        raise InputError(f"{_name(model)} cannot be exported for any batch size: its forward pass fixes the batch size")
    for node in written.graph.node:
        del node.metadata_props[:]  # they contain paths of source files on this machine
    for value in [*written.graph.input, *written.graph.output, *written.graph.value_info, *written.graph.initializer]:
        del value.metadata_props[:]
    onnx.save(written, str(path))


class _Logits(nn.Module):
    """A model whose `forward` has an argument named `images`, whatever the wrapped model calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def _copy_onnx(model: nn.Module, net: OnnxNet, path: str | Path) -> None:
    if isinstance(model, Classifier) and model.normalises:
        raise InputError(f"{net.path} with `mean` and `std` in front cannot be exported: put them into the file")
    if net.batch_size is not None:
        raise InputError(f"{net.path} only takes batches of {net.batch_size}: export it with a dynamic batch size")
    shutil.copyfile(net.path, path)


def _on_cpu(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    for parameter in copied.parameters():
        parameter.data = parameter.data.contiguous()
    return copied


class _Counted(io.StringIO):
    """A stream that shows the exporter's output, a tick for each completed step, as a progress bar."""

    def __init__(self, bar: Bar) -> None:
        super().__init__()
        self.bar, self.shown = bar, sys.stderr

    def write(self, text: str) -> int:
        if ticks := min(text.count("✅"), self.bar.total - self.bar.done):
            with contextlib.redirect_stderr(self.shown):
                self.bar.advance(ticks)
        return len(text)


@contextlib.contextmanager
def _silence(printed: io.StringIO):
    """Suppress what the exporter prints, logs and warns; errors contain everything that a user needs."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch, onnxscript and others log to their own streams
    try:
        with (
            torch.random.fork_rng(devices=[]),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(io.StringIO()),
            torch.no_grad(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """The message of the first cause of an exporter's error, and the operator if the error names one."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = one_line(error)
    operator = re.search(r"(?:aten|prims|torchvision|[a-z_]+)[.:]+[\w.:]+", text)
    return f"{text:.160}" + (f" ({operator[0]})" if operator and operator[0] not in text[:160] else "")


def _name(model: nn.Module) -> str:
    return str(getattr(model, "arch", "") or type(model).__name__)


def weighted_nodes(path: str | Path) -> list[str]:
    """Return the names of the nodes of a file that have weights, in order."""
    import onnx

    graph = onnx.load(str(path)).graph
    constants = {one.name for one in graph.initializer}
    return [
        node.name for node in graph.node if node.op_type in WEIGHTED and any(name in constants for name in node.input)
    ]
