"""A model that runs in a service: images are sent over HTTP as 8-bit pixels, and logits are returned.

The protocol is version 2 of the Open Inference Protocol with its binary tensor extension, as in `robustcls serve`:
https://github.com/kserve/open-inference-protocol. Only the given address is contacted: proxies and redirects are not used.
"""

import http.client
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import numpy
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from robustcls.core.classifier import Classifier, input_size_of
from robustcls.core.eight_bits import LEVELS
from robustcls.core.errors import InputError, one_line
from robustcls.core.threat import Norm
from robustcls.models.onnx.operators.straight import straight_through
from robustcls.results.fields import Distance

LENGTH = "Inference-Header-Content-Length"
INPUT, OUTPUT = "images", "logits"
BATCH = 32  # images per request
BODY = 8 << 20  # approximate largest size of a request in bytes; large images are sent in smaller batches
ANSWER = 16 << 20  # largest size of a response in bytes
TIMEOUT = 60.0  # seconds without a byte after which a request fails
PATIENCE = 60.0  # total seconds that one request waits while the service answers with Retry-After
_MODEL = re.compile(r"/v2/models/[\w.%-]+(?:/versions/([\w.%-]+))?", re.ASCII)
_USUAL = "give http://HOST:PORT/v2/models/NAME"


def is_remote(spec: str) -> bool:
    """Whether a spec is the address of a service."""
    return spec.startswith(("http://", "https://"))


@dataclass
class _Tensor:
    name: str
    shape: list[int]


@dataclass
class _Threat:
    norm: Norm
    eps: Distance


@dataclass
class _About:
    """The metadata that `robustcls serve` adds to the protocol."""

    sha256: str
    classes: list[str]
    threat: _Threat | None = None


@dataclass
class _Metadata:
    versions: list[str]
    inputs: list[_Tensor]
    outputs: list[_Tensor]
    parameters: _About


class RemoteNet(nn.Module):
    """A network that runs in a service: images N,C,H,W in [0, 1] are rounded to 8 bits and sent; it returns float32 logits N,K.

    The verdict is that on the image as sent. A service gives no gradients: `differentiable` is False until `follow` names a
    twin. Then the gradient is that of the twin at the image as sent (BPDA, arXiv:1802.00420); the logits are always those of
    the service.
    """

    eight_bits = True

    def __init__(self, url: str) -> None:
        """Read the metadata of the model. Raises InputError where the address is not that of a model of `robustcls serve`."""
        super().__init__()
        self.url = url.rstrip("/")
        self.queries = 0  # images that the service has answered
        self.failed = ""  # why the last request failed; "" where it was answered
        self.twin_name = ""
        self._twin: list[nn.Module] = []  # in a list, so that it is not registered as a submodule
        self._wire = _Wire(self.url)
        content, _ = self._wire.ask("GET")
        try:
            about = TypeAdapter(_Metadata).validate_json(content)
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"])) or "JSON"
            raise self._is_no_service(f"its metadata have no valid {place}") from None
        shape = about.inputs[0].shape if [one.name for one in about.inputs] == [INPUT] else []
        if len(shape) != 4 or min(shape[1:]) < 1:
            raise self._is_no_service(f"it does not take {INPUT} N,C,H,W")
        if OUTPUT not in [one.name for one in about.outputs]:
            raise self._is_no_service(f"it has no output {OUTPUT}")
        if len(about.parameters.classes) < 2 or not re.fullmatch("[0-9a-f]{64}", about.parameters.sha256):
            raise self._is_no_service("its metadata name no classes, or no SHA-256 of its file")
        self.input_size = (shape[1], shape[2], shape[3])
        self.classes: Sequence[str] = tuple(about.parameters.classes)
        self.sha256, threat = about.parameters.sha256, about.parameters.threat
        self.threat: dict[str, Any] = asdict(threat) if threat else {}  # norm and eps of training, where known
        named = _MODEL.fullmatch(urlsplit(self.url).path)
        self.version = (named and named[1]) or (about.versions or [""])[-1]

    def _is_no_service(self, why: str) -> InputError:
        return InputError(f"{self.url} is not a model of robustcls serve: {why}: {_USUAL}")

    def __deepcopy__(self, memo: object) -> "RemoteNet":
        raise InputError(f"{self.url} is a service, which cannot be copied: name the artefact or checkpoint itself")

    @property
    def differentiable(self) -> bool:
        return bool(self._twin)

    @property
    def no_gradient(self) -> str:
        return "" if self._twin else f"{self.url} answers logits: name the artefact that it serves with `twin`"

    @property
    def twin(self) -> nn.Module | None:
        return self._twin[0] if self._twin else None

    @property
    def notes(self) -> list[str]:
        """Notes for the user."""
        notes = [f"{self.url}: version {self.version}, asked with images in 8 bits: what is sent is what counts"]
        return [*notes, f"{self.url}: gradients are those of {self.twin_name}"] if self._twin else notes

    def follow(self, twin: nn.Module, name: str, classes: Sequence[str] = ()) -> None:
        """Use the gradients of another model, the twin. Raises InputError where it takes other images or has other classes.

        name: of the twin. classes: the class names of the twin, if it has any.
        """
        size = input_size_of(twin)
        if size is not None and tuple(size) != self.input_size:
            raise InputError(f"the twin {name} takes images of {tuple(size)}, {self.url} of {self.input_size}")
        if classes and tuple(classes) != tuple(self.classes):
            raise InputError(f"the twin {name} has other classes than {self.url}: name the artefact that it serves")
        if not getattr(twin, "differentiable", True):
            why = getattr(getattr(twin, "net", None), "no_gradient", "")
            raise InputError(f"the twin {name} gives no gradients{f' ({why})' if why else ''}: name its checkpoint")
        for parameter in twin.parameters():
            parameter.requires_grad_(False)
        self._twin, self.twin_name = [twin.eval()], name

    def forward(self, x: Tensor) -> Tensor:
        levels = (x.detach().nan_to_num(0).clamp(0, 1) * LEVELS).round()
        pixels = levels.to("cpu", torch.uint8).contiguous().numpy()
        logits = torch.from_numpy(self.answers(pixels)).to(x.device)
        if self.twin is not None and torch.is_grad_enabled() and x.requires_grad:
            twin_logits = self.twin.to(x.device)(straight_through(x, (levels / LEVELS).to(x.dtype)))
            if twin_logits.shape != logits.shape:
                raise InputError(
                    f"the twin {self.twin_name} gives {twin_logits.shape[-1]} logits, {self.url} {logits.shape[-1]}"
                )
            logits = straight_through(twin_logits.to(logits.dtype), logits)
        return logits

    def answers(self, pixels: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
        """Return the service's logits N,K of images N,C,H,W. Raises InputError where a request fails."""
        size = max(1, min(BATCH, BODY // max(1, pixels[:1].nbytes)))
        return numpy.concatenate([self._ask(pixels[at : at + size]) for at in range(0, len(pixels), size)])

    def _ask(self, pixels: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
        raw = pixels.tobytes()
        head = json.dumps({
            "inputs": [{
                "name": INPUT, "datatype": "UINT8", "shape": list(pixels.shape),
                "parameters": {"binary_data_size": len(raw)},
            }],
            "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}],
        }).encode()  # fmt: skip
        self.failed = f"{self.url} was asked and did not answer"
        try:
            logits = self._read(*self._wire.ask("POST", head + raw, {LENGTH: str(len(head))}), len(pixels))
        except InputError as error:
            self.failed = str(error)
            raise
        self.failed = ""
        self.queries += len(pixels)
        return logits

    def _read(self, content: bytes, length: str | None, count: int) -> NDArray[numpy.float32]:
        """Return the logits in a response for `count` images. Raises InputError without logits, or from another version."""
        shape = [count, len(self.classes)]
        try:
            end = int(length or "")
            whole = json.loads(content[:end])
            version = whole.get("model_version", self.version)
            [output] = whole["outputs"]
            described = [output[key] for key in ("name", "datatype", "shape")]
            logits = numpy.frombuffer(content[end:], dtype="<f4")
            if described != [OUTPUT, "FP32", shape] or logits.size != count * shape[1]:
                raise ValueError(f"{described[0]} {described[1]} {described[2]}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f"{self.url} answers something else than {OUTPUT} {shape} in binary ({_shown(one_line(error))}): is it a "
                "service of robustcls serve?"
            ) from None
        if version != self.version:
            raise InputError(
                f"{self.url} now answers by version {_shown(str(version))}, not by {self.version}: attack that one again"
            )
        return logits.reshape(shape).astype(numpy.float32)


class _Wire:
    """A keep-alive connection to the address of a model."""

    def __init__(self, url: str) -> None:
        """Raises InputError where the address is not that of a model."""
        self.url = url
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"{url} is not an address: {error}: {_USUAL}") from None
        if parts.scheme != "http":
            raise InputError(f"{url}: https is not supported: {_USUAL} of the service itself")
        if not host or parts.username is not None:
            raise InputError(f"{url} is not the address of a host: {_USUAL}")
        if not _MODEL.fullmatch(parts.path) or parts.query or parts.fragment:
            raise InputError(f"{url} names no model of a service: {_USUAL}")
        self.path = parts.path
        self.connection = http.client.HTTPConnection(host, port or 80, timeout=TIMEOUT)

    def ask(self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> tuple[bytes, Any]:
        """Return the metadata (GET), or the response to a request (POST) and the length of its JSON part.

        Waits while the service is busy. Raises InputError where there is no answer, or an error status.
        """
        waited = 0.0
        while True:
            status, fields, content = self._once(method, body, headers or {})
            wait = _seconds(fields["Retry-After"]) if status == 503 else None
            if wait is None:
                break
            if waited + wait > PATIENCE:
                raise InputError(f"{self.url} is busy, and refused for {waited:g} s: {_message(content)}")
            time.sleep(wait)
            waited += wait
        if status == 200:
            return content, fields[LENGTH]
        if 300 <= status < 400:
            raise InputError(f"{self.url} redirects, which is not followed: name the service itself")
        raise InputError(f"{self.url} refuses ({status}): {_message(content)}")

    def _once(self, method: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        path = self.path + ("/infer" if method == "POST" else "")
        while True:
            kept = self.connection.sock is not None
            try:
                self.connection.request(method, path, body, headers)
                response = self.connection.getresponse()
                content = response.read(ANSWER + 1)
                if len(content) > ANSWER:
                    raise ValueError(f"it answers more than {ANSWER} bytes")
                return response.status, response.headers, content
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.connection.close()
                if kept and isinstance(error, ConnectionError):  # closed while idle: retry on a new one
                    continue
                raise InputError(
                    f"{self.url} does not answer ({_shown(one_line(error))}): is `robustcls serve` running there?"
                ) from None
            except BaseException:  # Ctrl-C between request and answer
                self.connection.close()
                raise


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds to wait from a Retry-After header; None without the header."""
    if retry_after is None:
        return None
    return float(max(1, int(retry_after))) if re.fullmatch("[0-9]{1,6}", retry_after) else 1.0


def _message(content: bytes) -> str:
    """Return the error message in a response."""
    try:
        return _shown(json.loads(content)["error"])
    except (ValueError, TypeError, KeyError):
        return "it says no more in the Open Inference Protocol"


def _shown(text: str) -> str:
    """Return a text of the service without characters that could control a terminal, cut to 200 characters."""
    return "".join(letter for letter in text if letter.isprintable())[:200]


def remote_of(model: nn.Module) -> RemoteNet | None:
    """Return the service inside a model; None where there is none."""
    return next((one for one in model.modules() if isinstance(one, RemoteNet)), None)


def check_answered(model: nn.Module) -> None:
    """Raise InputError where the model is a service whose last request failed, so that parts of the evaluation are missing."""
    if (net := remote_of(model)) and net.failed:
        raise InputError(f"{net.failed}; what was not measured is named in the evaluation")


def classifier_of_service(net: RemoteNet) -> Classifier:
    """Return the classifier of a service."""
    model = Classifier(net, classes=net.classes, input_size=net.input_size, arch="service").eval()
    model.normalised_inside = True
    return model
