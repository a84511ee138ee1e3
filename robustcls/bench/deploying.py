"""The speed and size of one model in PyTorch, exported, quantised to 8 bits and pruned, on one thread."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from robustcls.bench.training import Result
from robustcls.core import plugins
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.deploy.onnx_file import write_onnx
from robustcls.models.onnx.net import OnnxNet, net_of
from robustcls.runtime.fused import FusedModel
from robustcls.runtime.timing import milliseconds, one_thread

EAGER, FOLDED = "eager torch", "folded torch"
EXPORTED = {"fp32": "ORT fp32", "int8": "ORT int8"}
PRUNE = "channels(ratio=0.5, criterion=l1)"  # without fine-tuning, because only speed and size are measured
QUANTIZE = "int8(calibrate=64)"
BATCHES = (1, 8, 32)
LIMITS: Any = {"most": 500, "least": 20, "seconds": 1.0}  # limits on the runs of a batch size in a round
# Run in a separate process. weights_only=False is safe: the file is a whole module that this process has just written.
RUN_TORCH = (
    "import sys, torch; torch.set_num_threads(1); torch.load(sys.argv[1], weights_only=False)(torch.rand({shape}))"
)
RUN_ONNX = """
import sys, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {{session.get_inputs()[0].name: numpy.zeros({shape}, dtype=numpy.float32)}})
"""
PEAK = "\nprint([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"


def variants_of(
    model: nn.Module, x: Tensor, y: Tensor, folder: Path, say: Callable[[str], None]
) -> dict[str, Callable[[], Result]]:
    """Return a measurement for each variant of the model; pruned variants only if Torch-Pruning is installed.

    x, y: images N,C,H,W in [0, 1] and labels, for calibration and pruning. Raises InputError if the model cannot be exported.
    """
    if net_of(model) is not None:
        raise InputError("`model` is an ONNX file already: give the model that it was exported from")
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    shape = tuple(x.shape[1:])
    modules = {EAGER: model, FOLDED: FusedModel(model).copy}
    files = {name: _saved(module, folder / f"{name}.pt") for name, module in modules.items()}
    files |= _exported(model, x, folder, "")
    try:
        if not isinstance(model, Classifier):
            raise InputError("only a built-in architecture can be pruned here")
        small = copy.deepcopy(model)
        plugins.load("prune", PRUNE)(small, x, y)
        files |= _exported(small, x, folder, "pruned ")
    except InputError as error:
        say(f"  pruned: left out: {error}")
    memory = {name: _memory(file, shape) for name, file in files.items()}
    loaded: dict[str, Callable[[Tensor], object]] = {
        name: modules.get(name) or _runner(file) for name, file in files.items()
    }

    def measure(name: str) -> Result:
        file = files[name]
        result: Result = {"precision": "int8" if name.endswith("int8") else "fp32"}
        for batch in BATCHES:
            images = torch.rand(batch, *shape)
            with one_thread(), torch.inference_mode():
                times = milliseconds(lambda: loaded[name](images), **LIMITS)  # noqa: B023
            result |= {f"p{p}_ms_{batch}": float(numpy.percentile(times, p)) for p in (50, 99)}
        result["images_per_second"] = 1000 * BATCHES[-1] / result[f"p50_ms_{BATCHES[-1]}"]
        result["size_mb"] = file.stat().st_size / 1e6
        return result | ({"process_mb": memory[name]} if memory[name] is not None else {})

    return {name: lambda name=name: measure(name) for name in files}  # type: ignore[misc]


def add_ratios(rows: dict[str, Result]) -> None:
    """Add to each row its time for one image, divided by the time of eager PyTorch."""
    for row in rows.values():
        if "error" not in row and "error" not in rows[EAGER]:
            row["of_eager"] = row["p50_ms_1"] / rows[EAGER]["p50_ms_1"]


def _saved(model: nn.Module, file: Path) -> Path:
    torch.save(model, file)
    return file


def _exported(model: nn.Module, x: Tensor, folder: Path, prefix: str) -> dict[str, Path]:
    plain, rounded = (folder / f"{prefix.strip()}{kind}.onnx" for kind in EXPORTED)
    write_onnx(model, plain, x.shape[1:])
    plugins.load("quantizer", QUANTIZE)(plain, rounded, x[: plugins.resolved("quantizer", QUANTIZE)["calibrate"]])
    return {f"{prefix}{name}": file for name, file in zip(EXPORTED.values(), (plain, rounded), strict=True)}


def _runner(file: Path) -> Callable[[Tensor], object]:
    run = OnnxNet(file).runner(threads=1)
    return lambda images: run(images.numpy())


def _memory(file: Path, shape: Sequence[int]) -> float | None:
    """Peak memory in MB of a process that loads the file and runs one batch of the largest size; None if it cannot be read."""
    code = (RUN_ONNX if file.suffix == ".onnx" else RUN_TORCH).format(shape=(BATCHES[-1], *shape)) + PEAK
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code, str(file)], env=environment, capture_output=True, text=True)
    return int(done.stdout) / 2**10 if done.returncode == 0 else None
