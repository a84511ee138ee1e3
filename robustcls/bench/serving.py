"""The speed of a service: `robustcls serve` under load on loopback, the server on one processor and the client on another."""

import io
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from robustcls.bench.latency import Answers
from robustcls.bench.service import PATIENCE, Contestant, Payload, cores, memory, on_core, running, send
from robustcls.bench.training import Result
from robustcls.core.errors import InputError
from robustcls.results.artefact import Manifest
from robustcls.runtime.session import check_file, open_session, read_reference
from robustcls.runtime.timing import milliseconds

IMAGES = 16  # number of reference images of the artefact, sent in turn, one per request
CLOSED = (4, 16, 64)  # numbers of connections in closed loop; the best rate is the capacity
OPEN = 512  # largest number of connections in open loop: more than the queue of `robustcls serve`
SHARES = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1)  # shares of the capacity tried in open loop
IN_TIME = 0.99  # a rate is sustained if at least this share of the requests is answered within the deadline
ALONE: Any = {"most": 300, "least": 20, "seconds": 2.0}  # limits on the runs of onnxruntime without a service
SINGLE = 500  # largest number of requests sent one after another; their median minus onnxruntime's time is the overhead


@dataclass(frozen=True)
class Subject:
    """The served artefact, its reference images, and the labels that onnxruntime predicts for them."""

    folder: Path
    manifest: Manifest
    pixels: NDArray[numpy.uint8]  # N,C,H,W
    labels: list[str]  # N

    @classmethod
    def of(cls, folder: str | Path) -> "Subject":
        """Read an artefact. Raises InputError."""
        manifest = Manifest.of(folder)
        pixels = read_reference(folder, manifest)[0][:IMAGES]
        run = _runner(Path(folder), manifest)
        return cls(
            Path(folder), manifest, pixels, [manifest.classes[int(run(_floats(one)).argmax())] for one in pixels]
        )

    def alone(self) -> float:
        """Return the median time in milliseconds of onnxruntime for one image, on one thread."""
        run, image = _runner(self.folder, self.manifest), _floats(self.pixels[0])
        return statistics.median(milliseconds(lambda: run(image), **ALONE))


@dataclass(frozen=True)
class Plan:
    """The extent of the measurements."""

    requests: int  # at half load
    seconds: float  # duration of every other load
    deadline: float  # seconds


def ours(subject: Subject, deadline: float, engine: Sequence[str] = ()) -> list[Contestant]:
    """Return `robustcls serve` with one thread as contestants: with requests in JSON, in raw bytes and with PNG files."""
    command = [
        sys.executable, "-m", "robustcls", "serve", "--model", f"model={subject.folder}", "--port", "{port}",
        "--threads", "1", "--timeout", str(deadline), "--drain", "0", "--quiet", *engine,
    ]  # fmt: skip
    wanted = {"outputs": [{"name": "label"}, {"name": "probabilities"}]}
    payloads: dict[str, list[Payload]] = {"JSON": [], "raw UINT8": [], "PNG": []}
    for image in subject.pixels:
        tensor: dict[str, Any] = {"name": "images", "datatype": "FP32", "shape": [1, *image.shape]}
        content = json.dumps({"inputs": [tensor | {"data": _floats(image).tolist()}], **wanted}).encode()
        payloads["JSON"].append(Payload(content, {"Content-Type": "application/json"}))
        payloads["raw UINT8"].append(_binary(tensor | {"datatype": "UINT8"}, wanted, image.tobytes()))
        file = _png(image)
        element = len(file).to_bytes(4, "little") + file
        payloads["PNG"].append(_binary(tensor | {"datatype": "BYTES", "shape": [1]}, wanted, element))
    name = "robustcls on Ray" if engine else "robustcls"
    return [
        Contestant(f"{name}, {kind}", command, "/v2/models/model/infer", made, _label, precision=subject.manifest.kind)
        for kind, made in payloads.items()
        if subject.manifest.input_size[0] in (1, 3) or kind != "PNG"
    ]


def _label(answer: Any) -> str:
    return next(one["data"][0] for one in answer["outputs"] if one["name"] == "label")


def _binary(tensor: dict[str, Any], wanted: dict[str, Any], raw: bytes) -> Payload:
    parameters = {"parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor | parameters], **wanted}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Payload(head + raw, headers)


def _png(image: NDArray[numpy.uint8]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(out, "PNG")
    return out.getvalue()


def _floats(image: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    return image[None].astype(numpy.float32) / numpy.float32(255)


def _runner(folder: Path, manifest: Manifest) -> Callable[[NDArray[numpy.float32]], NDArray[numpy.float32]]:
    session = open_session(check_file(folder, manifest), 1)
    name = session.get_inputs()[0].name
    return lambda pixels: session.run(None, {name: pixels})[0]


def measure(contestant: Contestant, subject: Subject, plan: Plan) -> Result:
    """Measure a contestant once, from the start of its service to its end. Raises InputError if it does not answer."""
    server_core, client_core = cores()
    with on_core(server_core):
        alone = subject.alone()
    with running(contestant, subject.labels, server_core) as (pid, port, ready):
        result: Result = {"precision": contestant.precision, "onnxruntime_ms": alone, "ready_seconds": ready}
        result |= {f"ready_{name}": value for name, value in memory(pid).items()}

        def load(connections: int, *, deadline: float = PATIENCE, **job: Any) -> Answers:
            return send(contestant, port, client_core, connections=connections, deadline=deadline, **job)

        def settle() -> None:
            """Wait until the service has finished the previous load."""
            if not load(1, count=1).answered:
                raise InputError(f"{contestant.name} does not answer any more after a load")

        load(CLOSED[-1], seconds=plan.seconds / 4)  # warms up
        single = load(1, count=min(SINGLE, plan.requests))
        result["single_ms"] = single.quantile(0.5)
        if result["single_ms"] is not None:
            result["overhead_ms"] = result["single_ms"] - alone
        closed = {connections: load(connections, seconds=plan.seconds) for connections in CLOSED}
        result["closed"] = {connections: answers.about() for connections, answers in closed.items()}
        capacity = result["requests_per_second"] = max(answers.rate for answers in closed.values())
        if not capacity:
            raise InputError(f"{contestant.name} answered nothing under load: {closed[CLOSED[0]].about()}")
        result |= memory(pid)
        settle()
        half = load(OPEN, rate=capacity / 2, count=plan.requests, deadline=plan.deadline)
        result |= {"p50_ms": half.quantile(0.5), "p99_ms": half.quantile(0.99), "half": half.about()}
        tried: dict[float, Any] = {}

        def in_time(share: float) -> bool:
            settle()
            rate = share * capacity
            answers = load(OPEN, rate=rate, count=max(1, int(rate * plan.seconds)), deadline=plan.deadline)
            tried[share] = answers.about()
            return answers.answered >= IN_TIME * answers.sent

        result["sustained_per_second"] = highest(SHARES, in_time) * capacity
        result["sustained"] = tried
        settle()
        double = load(OPEN, rate=2 * capacity, count=max(2, int(2 * capacity * plan.seconds)), deadline=plan.deadline)
        result |= overload(double, capacity) | {"double": double.about()}
        result["errors"] = float(half.errors + double.errors + sum(one["errors"] for one in tried.values()))
    return result


def overload(answers: Answers, capacity: float) -> Result:
    """Results under overload: the share of the capacity that is answered in time, and how quickly the rest is refused."""
    return {
        "of_capacity": answers.rate / capacity,
        "refused": answers.refused / answers.sent,
        "refusal_p50_ms": answers.refusal(0.5),
        "refusal_p99_ms": answers.refusal(0.99),
        "accepted_p99_ms": answers.accepted(0.99),
    }


def highest(shares: Sequence[float], passes: Callable[[float], bool]) -> float:
    """Return the largest of ascending shares that passes, by bisection; 0 if none does."""
    low, high = 0, len(shares)  # all shares before `low` pass, and none from `high` on
    while low < high:
        middle = (low + high) // 2
        if passes(shares[middle]):
            low = middle + 1
        else:
            high = middle
    return shares[low - 1] if low else 0.0
