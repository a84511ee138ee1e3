"""The Open Inference Protocol, version 2, over HTTP: https://github.com/kserve/open-inference-protocol

Requests are JSON, or JSON followed by raw tensors (the binary tensor extension).
"""

import base64
import binascii
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import pydantic_core
from numpy.typing import NDArray

from robustcls.serving.json_data import numbers_of, read_json, whole
from robustcls.serving.model import ServedModel
from robustcls.serving.refused import Refused

LENGTH = "inference-header-content-length"
INPUT = "images"
OUTPUTS = ("logits", "probabilities", "label")
DATATYPES = ("FP32", "UINT8", "BYTES")
JSON, BINARY = "application/json", "application/octet-stream"

MOST_FILES, MOST_DECODED = 1 << 16, 1 << 28  # limits of a request: encoded images, and values of all decoded images

Shape = tuple[int, int, int]


@dataclass
class Wanted:
    """A requested output."""

    name: str
    binary: bool  # as raw bytes behind the JSON


@dataclass
class Request:
    """Images to classify: pixels, or encoded files."""

    id: str | None
    pixels: NDArray[Any] | None = None  # N,C,H,W: float32 in [0, 1], or uint8
    encoded: list[bytes] = field(default_factory=list)  # N files
    outputs: list[Wanted] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.encoded) if self.pixels is None else len(self.pixels)


def server_metadata(version: str) -> dict[str, Any]:
    return {"name": "robustcls", "version": version, "extensions": ["binary_tensor_data"]}


def model_metadata(model: ServedModel, versions: Sequence[str]) -> dict[str, Any]:
    """Return the metadata of a model. `parameters` has the robust accuracy of the file, for which the protocol has no field."""
    quantization = model.manifest.quantization
    about: dict[str, Any] = {
        "sha256": model.manifest.file.sha256,
        "precision": "int8" if quantization else "fp32",
        "classes": model.classes,
    }
    if model.manifest.threat:
        about["threat"] = model.manifest.threat
    if (found := model.evaluation) is not None:
        about["robust_accuracy"] = {
            "norm": found.threat.norm, "eps": found.threat.eps_text + found.threat.limits, "accuracy": found.robust.accuracy,
            "ci95": list(found.robust.ci95), "n": found.robust.total, "kind": found.robust.kind,
        }  # fmt: skip
        about["clean_accuracy"] = {"accuracy": found.clean.accuracy, "ci95": list(found.clean.ci95)}
    outputs = len(model.classes)
    return {
        "name": model.name,
        "versions": list(versions),
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": [-1, *model.manifest.input_size]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, outputs]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, outputs]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ],
        "parameters": about,
    }


def parse(body: bytes, header_length: str | None, shape: Shape) -> Request:
    """Parse the body of a request. Raises Refused with a message that says what is wrong.

    Args:
        body: the whole body.
        header_length: length of the JSON in front of raw tensors; None if the whole body is JSON.
        shape: (C, H, W) of the model.
    """
    end = len(body)
    if header_length is not None:
        digits = len(header_length) <= 12 and header_length.isascii() and header_length.isdigit()
        if not (digits and int(header_length) <= end):
            raise Refused("protocol", f"{LENGTH}: {header_length:.20} is not a length within a body of {end} bytes")
        end = int(header_length)
    try:
        head = read_json(memoryview(body)[:end].tobytes())
    except ValueError as error:
        raise Refused("protocol", f"the request is not JSON: {error!s:.100}") from None
    if not isinstance(head, dict):
        raise Refused("protocol", "the request is not a JSON object with `inputs`")
    tensor = _only_input(head)
    request = Request(_id_of(head), outputs=_outputs_of(head))
    datatype, sizes = tensor.get("datatype"), _sizes_of(tensor)
    if not (isinstance(datatype, str) and datatype in DATATYPES):
        raise Refused("protocol", f"datatype {datatype!r:.40} of {INPUT}: give {', '.join(DATATYPES)}")
    raw = _raw_of(tensor, body[end:], header_length is not None)
    if datatype == "BYTES":
        if not (len(sizes) == 1 or (len(sizes) == 2 and sizes[1] == 1)):
            raise Refused("shape", f"shape {_text(sizes)} of {INPUT}: encoded images have the shape [N]")
        most = max(1, min(MOST_FILES, MOST_DECODED // math.prod(shape)))
        if sizes[0] > most:
            raise Refused("shape", f"{INPUT} has {whole(sizes[0])} files: at most {most} are allowed in a request")
        request.encoded = _split(raw, sizes[0]) if raw is not None else _files(tensor["data"], sizes[0])
    else:
        if len(sizes) != 4 or tuple(sizes[1:]) != shape:
            raise Refused(
                "shape", f"shape {_text(sizes)} of {INPUT}: the model takes [N, {', '.join(map(str, shape))}]"
            )
        request.pixels = _pixels(datatype, sizes, raw, tensor)
    return request


def _only_input(head: dict) -> dict:
    inputs = head.get("inputs")
    if not (isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict)):
        raise Refused("protocol", f"`inputs` must be a list of one tensor, {INPUT!r}")
    if inputs[0].get("name") != INPUT:
        raise Refused("protocol", f"input {inputs[0].get('name')!r:.60} is unknown: the model takes {INPUT!r}")
    return inputs[0]


def _id_of(head: dict) -> str | None:
    name = head.get("id")
    if name is not None and not (isinstance(name, str) and len(name) <= 256):
        raise Refused("protocol", "`id` must be a string of at most 256 characters")
    return name


def _parameters(of: dict) -> dict:
    parameters = {} if of.get("parameters") is None else of["parameters"]
    if not isinstance(parameters, dict):
        raise Refused("protocol", "`parameters` must be an object")
    if "shared_memory_region" in parameters:
        raise Refused("protocol", "tensors in shared memory are not supported: send them in the request")
    return parameters


def _outputs_of(head: dict) -> list[Wanted]:
    binary = _parameters(head).get("binary_data_output") is True
    asked = head.get("outputs")
    if asked is None or asked == []:
        return [Wanted(name, binary) for name in OUTPUTS]
    if not (isinstance(asked, list) and all(isinstance(one, dict) for one in asked)):
        raise Refused("protocol", "`outputs` must be a list of objects with a name")
    if len(asked) > len(OUTPUTS):
        raise Refused("protocol", f"{len(asked)} outputs were requested, but the model has {len(OUTPUTS)}")
    wanted = []
    for one in asked:
        if one.get("name") not in OUTPUTS:
            raise Refused(
                "protocol", f"output {one.get('name')!r:.60} is unknown: the outputs are {', '.join(OUTPUTS)}"
            )
        parameters = _parameters(one)
        if parameters.get("classification"):
            raise Refused("protocol", "classification is not supported: request the outputs label and probabilities")
        wanted.append(Wanted(one["name"], parameters.get("binary_data", binary) is True))
    return wanted


def _sizes_of(tensor: dict) -> list[int]:
    sizes: Any = tensor.get("shape")
    whole = isinstance(sizes, list) and 0 < len(sizes) <= 8 and all(type(one) is int and one >= 0 for one in sizes)
    if not whole:
        raise Refused("shape", f"shape {sizes!r:.60} of {INPUT} is not a list of sizes")
    if sizes[0] == 0:
        raise Refused("shape", f"{INPUT} has no image")
    return list(sizes)


def _text(sizes: Sequence[int]) -> str:
    return f"[{', '.join(map(whole, sizes))}]"


def _raw_of(tensor: dict, after: bytes, allowed: bool) -> bytes | None:
    """The bytes of the tensor behind the JSON; None if its `data` are in the JSON."""
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if after:
            raise Refused("protocol", f"{len(after)} bytes follow the JSON, but {INPUT} has no binary_data_size")
        if not isinstance(tensor.get("data"), list):
            raise Refused("protocol", f"{INPUT} has neither a list `data` nor binary_data_size")
        return None
    if not allowed:
        raise Refused("protocol", f"binary_data_size without the header {LENGTH}")
    if type(size) is not int or size != len(after):
        raise Refused("protocol", f"binary_data_size is {size!r:.20}, but {len(after)} bytes follow the JSON")
    return after


def _pixels(datatype: str, sizes: Sequence[int], raw: bytes | None, tensor: dict) -> NDArray[Any]:
    """The pixels N,C,H,W of a request. Raises Refused if one is out of range. sizes: N,C,H,W, already checked."""
    kind = numpy.dtype("<f4" if datatype == "FP32" else "u1")
    count = math.prod(sizes)
    if raw is None:
        values = numbers_of(tensor["data"], sizes, INPUT)
        if datatype == "UINT8" and (values.dtype.kind == "f" or values.min() < 0 or values.max() > 255):
            raise Refused("values", f"{INPUT} as UINT8 has {_range(values)}: give whole numbers from 0 to 255")
        with numpy.errstate(over="ignore"):
            pixels = values.astype(kind).reshape(sizes)
    else:
        if len(raw) != count * kind.itemsize:
            raise Refused(
                "shape", f"{INPUT} has {len(raw)} bytes, but its shape and datatype need {whole(count * kind.itemsize)}"
            )
        pixels = numpy.frombuffer(raw, dtype=kind).reshape(sizes)
    if datatype == "FP32" and not (pixels.min() >= 0 and pixels.max() <= 1):  # `not` so that NaN is refused, too
        raise Refused("values", f"{INPUT} as FP32 has {_range(pixels)}: give finite pixels in [0, 1]")
    return pixels


def _range(values: NDArray[Any]) -> str:
    finite = numpy.isfinite(values)
    if not finite.all():
        return f"{values.size - int(finite.sum())} values that are not finite"
    return f"values from {values.min():.4g} to {values.max():.4g}"


def _split(raw: bytes, count: int) -> list[bytes]:
    """Split a BYTES tensor into `count` elements, each preceded by its length in four bytes, little-endian."""
    files: list[bytes] = []
    at = 0
    while at < len(raw) and len(files) < count:
        size = int.from_bytes(raw[at : at + 4], "little")
        if at + 4 + size > len(raw):
            raise Refused(
                "shape",
                f"file {len(files)} of {INPUT} should have {size} bytes, but {max(0, len(raw) - at - 4)} follow",
            )
        files.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    if len(files) < count or at < len(raw):
        found = "more" if at < len(raw) else len(files)
        raise Refused("shape", f"{INPUT} has {found} files, its shape says {count}")
    return files


def _files(data: list[Any], count: int) -> list[bytes]:
    if len(data) != count:
        raise Refused("shape", f"{INPUT} has {len(data)} files, its shape says {count}")
    try:
        return [base64.b64decode(one, validate=True) for one in data]
    except (binascii.Error, ValueError, TypeError):
        raise Refused("protocol", f"`data` of {INPUT} as BYTES must be base64 strings in JSON") from None


@dataclass
class Answer:
    """The body and the headers of a response."""

    body: bytes
    headers: dict[str, str]


def answer(request: Request, model: ServedModel, logits: NDArray[numpy.float32], probabilities: NDArray[Any]) -> Answer:
    """Build the response from logits and probabilities N,K, with the outputs that the request asks for."""
    found = {"logits": logits, "probabilities": probabilities}
    outputs, parts = [], []
    for wanted in request.outputs:
        one: dict[str, Any] = {"name": wanted.name}
        if wanted.name == "label":
            labels = [model.classes[label] for label in logits.argmax(1)]
            one |= {"datatype": "BYTES", "shape": [len(labels)]}
            part = b"".join(_element(label) for label in labels) if wanted.binary else b""
            data: Any = labels
        else:
            values = found[wanted.name]
            one |= {"datatype": "FP32", "shape": list(values.shape)}
            part = numpy.ascontiguousarray(values, dtype="<f4").tobytes() if wanted.binary else b""
            data = None if wanted.binary else values.ravel().tolist()
        if wanted.binary:
            one["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            one["data"] = data
        outputs.append(one)
    whole: dict[str, Any] = {"model_name": model.name, "model_version": model.version, "outputs": outputs}
    if request.id is not None:
        whole["id"] = request.id
    head = pydantic_core.to_json(whole)
    if not parts:
        return Answer(head, {"content-type": JSON})
    return Answer(b"".join([head, *parts]), {"content-type": BINARY, LENGTH: str(len(head))})


def _element(text: str) -> bytes:
    content = text.encode()
    return len(content).to_bytes(4, "little") + content
