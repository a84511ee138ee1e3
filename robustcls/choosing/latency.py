"""The latency of a candidate: the time of its exported file for one image."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from robustcls.core.errors import InputError
from robustcls.deploy.onnx_file import write_onnx
from robustcls.models.checkpoint import restore
from robustcls.models.weights import read_file
from robustcls.runtime.session import open_session
from robustcls.runtime.timing import milliseconds

CALLS: Any = {"most": 500, "least": 20, "seconds": 1.0}


def median_ms(checkpoint: Path, arch: str) -> float:
    """Return the median milliseconds per image with ONNX Runtime on one thread. Raises InputError if export or run fails."""
    model = restore(read_file(checkpoint), str(checkpoint), arch)[0].eval()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_onnx(model, file, model.input_size)
        session = open_session(file, threads=1)
        feed = {session.get_inputs()[0].name: torch.rand(1, *model.input_size).numpy()}
        return statistics.median(milliseconds(lambda: session.run(None, feed), **CALLS))


def latency_of(checkpoint: Path, arch: str) -> tuple[float | None, str]:
    """Return the median latency and "", or None and the reason."""
    if not checkpoint.exists():
        return None, "its training failed"
    try:
        return median_ms(checkpoint, arch), ""
    except InputError as error:
        return None, str(error)
