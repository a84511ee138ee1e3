"""The programs of Prometheus, if this machine has them in PATH or in the folder that ROBUSTCLS_PROMETHEUS names."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from robustcls.serving.monitoring.rules import rules
from robustcls.serving.monitoring.target import Target


def program(name: str) -> str:
    """Return the path of a program; skip the test if it is not installed."""
    folder = os.environ.get("ROBUSTCLS_PROMETHEUS")
    found = shutil.which(name, path=folder) if folder else shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}: apt install prometheus prometheus-alertmanager, or ROBUSTCLS_PROMETHEUS=FOLDER")
    return found


def promtool(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run([program("promtool"), *arguments], cwd=cwd, input=stdin, capture_output=True, check=False)


def alerts_of(target: Target) -> set[str]:
    """Return the names of all alerts of a service."""
    return {one["alert"] for group in rules(target)["groups"] for one in group["rules"] if "alert" in one}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextmanager
def running(words: list[str], log: Path, ready: str) -> Iterator[None]:
    """Run a daemon until the end of the block; the block starts when it answers at the URL `ready`."""
    with open(log, "wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent)
    try:
        until(lambda: _answers(ready) or process.poll() is not None, 30)
        output = log.read_text(errors="replace")
        if process.poll() is not None and "failed to parse templates" in output:
            pytest.skip("Alertmanager has no templates: it was unpacked, not installed")
        assert process.poll() is None, output[-2000:]
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(reached, patience: float) -> None:
    """Wait until `reached()` holds or `patience` seconds have passed; the caller asserts the result."""
    end = time.monotonic() + patience
    while not reached() and time.monotonic() < end:
        time.sleep(0.25)


def query(base: str, expr: str) -> list[dict]:
    """Return the current samples of a PromQL expression."""
    url = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)
    assert found["status"] == "success", found
    return found["data"]["result"]


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict]]]:
    """Run a webhook receiver on loopback; yields its URL and the list of alerts that it has received."""
    received: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", received
    finally:
        server.shutdown()
        server.server_close()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False
