"""Quantisation to 8-bit integers with onnxruntime's static quantisation."""

import contextlib
import io
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from robustcls.core.errors import InputError, one_line
from robustcls.core.progress import Bar
from robustcls.deploy.onnx_file import weighted_nodes
from robustcls.models.onnx.facts import OnnxFacts

PIXELS = 1 << 20  # pixel values in a batch at most: calibration keeps the outputs of every layer in memory


def int8(
    source: Path,
    target: Path,
    images: Tensor,
    float_layers: Sequence[str] = (),
    progress: bool = False,
    *,
    calibrate: int = 512,
    ranges: Literal["minmax", "percentile", "entropy"] = "minmax",
    keep: Literal["last", "first_and_last", "none"] = "last",
    adversarial: float = 0.0,
    per_channel: bool = True,
    reduce_range: bool = False,
) -> list[str]:
    """Quantise weights to int8, activations to uint8 (as QuantizeLinear and DequantizeLinear pairs) and biases to int32.

    Source: onnxruntime's quantize_static after quant_pre_process, which folds layers and constants where possible.

    Args:
        source, target: ONNX files.
        images: float32 N,C,H,W in [0, 1], on which the ranges of activations are measured.
        float_layers: names of nodes that stay in floating point, in addition to those of `keep`.
        progress: show a progress bar.
        calibrate: number of training images; the caller selects them.
        ranges: how the range of activations is chosen: smallest and largest value, 99.999th percentile, or least relative
            entropy.
        keep: layers with weights that stay in floating point; with a quantised last layer, logits often tie.
        adversarial: share of the images that are adversarial examples of the source; the caller makes them.
        per_channel: use one scale per output channel of the weights.
        reduce_range: use 7 bits for weights, for CPUs whose 8-bit products saturate (AVX2 or AVX-512 without VNNI).

    Returns:
        The names of all nodes with weights that stayed in floating point.

    Raises:
        InputError: if onnxruntime cannot quantise the file.
    """
    with _found_again():
        try:
            from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
            from onnxruntime.quantization.shape_inference import quant_pre_process
        except ImportError:
            raise InputError("`quantize` needs onnx and onnxruntime: pip install 'robustcls[onnx]'") from None
    facts = OnnxFacts.of(source)
    if facts.rounded:
        raise InputError("the model is already quantised: quantise the floating-point model instead")
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        _silence(),
        Bar(len(images), "calibrating", "image", show=progress) as bar,
    ):
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            weighted = weighted_nodes(prepared)
            kept = {"last": weighted[-1:], "first_and_last": weighted[:1] + weighted[-1:], "none": []}[keep]
            excluded = sorted({*kept, *float_layers} & set(weighted), key=weighted.index)
            quantize_static(
                str(prepared), str(target), _reader(images, facts.input, bar),
                quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                per_channel=per_channel, reduce_range=reduce_range, calibrate_method=methods[ranges],
                nodes_to_exclude=excluded, extra_options={"CalibStridedMinMax": 1},
            )  # fmt: skip
        except Exception as error:  # the errors of onnxruntime and onnx have no common base class
            raise InputError(f"onnxruntime cannot quantise this model: {one_line(error):.160}") from None
    return excluded


def _reader(images: Tensor, name: str, bar: Bar) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = images.split(max(1, PIXELS // images[0].numel()))
            self.at, self.end = 0, len(self.batches)

        def __len__(self) -> int:
            return len(self.batches)

        def set_range(
            self, start_index: int, end_index: int
        ) -> None:  # called for each batch, so that outputs do not accumulate
            self.at, self.end = start_index, end_index

        def get_next(self) -> Any:
            if self.at >= self.end:
                return None
            batch = self.batches[self.at]
            self.at += 1
            bar.advance(len(batch))
            return {name: batch.numpy()}

    return Reader()


@contextlib.contextmanager
def _found_again():
    """Restore sys.path at the end: importing onnxruntime.quantization adds a folder to it."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _silence():
    logging.disable(logging.WARNING)  # onnxruntime logs on the root logger
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
