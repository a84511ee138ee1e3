"""Run a service of the suite serve as a process: start it on one processor, load it from another, measure it and end it."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustcls.bench.latency import Answers
from robustcls.bench.training import Result
from robustcls.core.errors import InputError

START = 120.0  # seconds within which a service must answer for the first time
PATIENCE = 60.0  # timeout of a request in seconds if no deadline is measured
END = 10.0  # seconds from SIGTERM to SIGKILL


@dataclass(frozen=True)
class Payload:
    """One image as the body of a request."""

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Contestant:
    """A service, its requests, and how to read the predicted class from an answer."""

    name: str
    command: Sequence[str]  # {port} is replaced
    path: str
    payloads: Sequence[Payload]
    label: Callable[[Any], str]  # predicted class from the decoded JSON
    environment: tuple[tuple[str, str], ...] = ()
    precision: str = "fp32"


def cores() -> tuple[int | None, int | None]:
    """Return a processor for the server and one for the client; None for both with fewer than two, or without affinity."""
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return (there[0], there[-1]) if len(there) > 1 else (None, None)


def of_one_core(one: int | None, other: int | None) -> bool | None:
    """Whether two processors are hardware threads of the same core, which slow each other down; None if this is unknown."""
    try:
        text = Path(f"/sys/devices/system/cpu/cpu{one}/topology/thread_siblings_list").read_text(encoding="ascii")
        ranges = [[int(end) for end in part.split("-")] for part in text.strip().split(",")]
    except (OSError, ValueError):
        return None
    return any(part[0] <= (-1 if other is None else other) <= part[-1] for part in ranges)


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Run this thread, and the processes that it starts, only on the given processor."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def running(contestant: Contestant, labels: Sequence[str], core: int | None) -> Iterator[tuple[int, int, float]]:
    """Run a service; yield its process id, its port, and the seconds from its start to its first answer.

    Raises InputError if it does not start, or predicts other labels.
    """
    port = _free_port()
    command = [part.format(port=port) if "{port}" in part else part for part in contestant.command]
    environment = os.environ | dict(contestant.environment) | search_path()
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        with on_core(core):
            child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _first_answer(contestant, port, child, log)
            ready = time.perf_counter() - began
            for payload, label in zip(contestant.payloads, labels, strict=True):
                found = _ask(contestant, port, payload)
                if found != label:
                    raise InputError(f"{contestant.name} predicts {found}, but onnxruntime itself predicts {label}")
            yield child.pid, port, ready
        finally:
            _end(child)


def _first_answer(contestant: Contestant, port: int, child: subprocess.Popen, log: Any) -> None:
    end, last = time.monotonic() + START, "nothing"
    while time.monotonic() < end and child.poll() is None:
        try:
            _ask(contestant, port, contestant.payloads[0])
            return
        except (OSError, http.client.HTTPException, InputError) as error:
            last = str(error) or type(error).__name__
            time.sleep(0.01)
    log.seek(0)
    messages = log.read().decode(errors="replace").strip().splitlines() or [last]
    raise InputError(f"{contestant.name} does not start: {messages[-1]:.200}")


def _ask(contestant: Contestant, port: int, payload: Payload) -> str:
    """Send one request, and return the predicted class. Raises InputError, OSError and HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("POST", contestant.path, payload.body, payload.headers)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise InputError(f"{contestant.name} answers {answer.status}: {content.decode(errors='replace'):.160}")
    return contestant.label(json.loads(content))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _end(child: subprocess.Popen) -> None:
    processes = _family(child.pid)
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(END)
    except subprocess.TimeoutExpired:
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()


def _family(pid: int) -> list[int]:
    """The ids of a process and its descendants, as far as the system reports them."""
    found = [pid]
    for each in found:
        for file in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, file.read_text(encoding="ascii").split())
    return found


def memory(pid: int) -> Result:
    """Return the memory of a process and its descendants in MB: RSS counts shared pages in each process, PSS only once.

    Empty on systems other than Linux.
    """
    totals = {"Rss": 0.0, "Pss": 0.0}
    for each in _family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii").splitlines():
                name, _, rest = line.partition(":")
                if name in totals:
                    totals[name] += int(rest.split()[0]) / 2**10
    return {f"{name.lower()}_mb": total for name, total in totals.items() if total}


def send(contestant: Contestant, port: int, core: int | None, **job: Any) -> Answers:
    """Load a contestant, with the client on the given processor, and return the results. Raises InputError."""
    requests = [_whole(contestant.path, port, payload) for payload in contestant.payloads]
    job |= {"port": port, "spin": core is not None, "requests": [base64.b64encode(one).decode() for one in requests]}
    expected = job.get("seconds") or job["count"] / (job.get("rate") or 1 / PATIENCE)
    with on_core(core):
        client = subprocess.Popen(
            [sys.executable, "-m", "robustcls.bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | search_path(), text=True,
        )  # fmt: skip
    try:
        out, _ = client.communicate(json.dumps(job), timeout=expected + 2 * PATIENCE)
    except subprocess.TimeoutExpired:
        raise InputError(f"the client of {contestant.name} did not end in time") from None
    finally:
        client.kill()
        client.wait()
    if client.returncode:
        raise InputError(f"the client of {contestant.name} ended with status {client.returncode}")
    return Answers.of(json.loads(out))


def _whole(path: str, port: int, payload: Payload) -> bytes:
    """The complete HTTP request as bytes."""
    headers = {"Host": f"127.0.0.1:{port}", **payload.headers, "Content-Length": str(len(payload.body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + payload.body


def search_path() -> dict[str, str]:
    """Return environment variables with which a child process finds the same modules as this process."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
