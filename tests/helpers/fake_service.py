"""A fake service that exposes only the metrics of robustcls.serving, with faults that a test sets."""

import hashlib
import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
from prometheus_client import generate_latest

from robustcls.serving.metrics import Metrics

SHA256 = "d957c78a" * 8
OF = ("digits", "d957c78ad75f")
CLASSES = ("cat", "dog", "owl")
THRESHOLD = 0.112
ROUTE = "/v2/models/{name}/infer"


class FakeService:
    """The metrics of a healthy service after its start. `tick` adds traffic; attributes set faults."""

    def __init__(
        self, sha256: str = SHA256, name: str = OF[0], evaluated: bool = True, difference: float = 2e-6
    ) -> None:
        self.metrics = m = Metrics()
        self.of = of = (name, OF[1])
        self.sha256 = sha256
        self.answers = True
        self.failing = self.slow = self.refused = 0.0  # shares of requests
        self.confidence, self.first = 0.9, 1 / 3  # mean confidence, and the share of the first class
        self.drifted = False
        m.capacity.labels(*of).set(128)
        m.queued.labels(*of).set(2)
        m.inflight.set(1)
        m.restarts.labels(*of)
        m.info.labels(*of, sha256, "int8").set(1)
        m.evaluated.labels(*of).set(evaluated)
        m.ready.set(1)
        m.reference.labels(*of).set(difference)
        if evaluated:
            for gauge, value in ((m.robust, 0.431), (m.robust_lower, 0.4), (m.robust_upper, 0.462)):
                gauge.labels(*of, "linf", "8/255").set(value)
        m.drift_threshold.labels(*of).set(THRESHOLD)
        m.drift_window.labels(*of).set(500)
        for label in CLASSES:
            m.predictions.labels(*of, label)
            m.drift.labels(*of, label).set(0.05)
        for drifted in ("true", "false"):
            m.drift_windows.labels(*of, drifted)
        for status in ("200", "400", "503"):
            m.request_seconds.labels("POST", ROUTE, status)

    def tick(self, requests: int = 100) -> None:
        """Add this many requests of one image each, and one window of drift."""
        m, of = self.metrics, self.of
        failed, refused = (round(share * requests) for share in (self.failing, self.refused))
        m.rejected.labels("decoding").inc(refused)
        for status, number in (("503", failed), ("400", refused)):
            for _ in range(number):
                m.request_seconds.labels("POST", ROUTE, status).observe(0.001)
        answered = requests - failed - refused
        for number in range(answered):
            m.request_seconds.labels("POST", ROUTE, "200").observe(0.7 if number < self.slow * answered else 0.006)
            m.queue_seconds.labels(*of).observe(0.001)
            m.decode_seconds.labels(*of).observe(0.0004)
            m.inference_seconds.labels(*of).observe(0.004)
            m.batch_images.labels(*of).observe(1)
            label = CLASSES[0] if number < self.first * answered else CLASSES[1 + number % 2]
            m.predictions.labels(*of, label).inc()
            m.confidence.labels(*of).observe(self.confidence)
        m.request_seconds.labels("GET", "/v2/health/ready", "200").observe(0.0005)
        m.drift.labels(*of, "dog").set(0.3 if self.drifted else 0.06)
        m.drift_windows.labels(*of, "true" if self.drifted else "false").inc()

    def text(self) -> bytes:
        return generate_latest(self.metrics.registry)

    def break_reference(self) -> None:
        self.metrics.reference.labels(*self.of).set(math.nan)


def write_artefact(folder: Path) -> Path:
    """Write an artefact without a usable model, with the files that monitoring reads; return its folder."""
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"")
    rng = numpy.random.default_rng(0)
    numpy.savez(folder / "reference.npz", pixels=rng.integers(0, 256, (4, 1, 8, 8)), logits=rng.normal(0, 9, (4, 3)))
    manifest = {
        "schema": "robustcls/artefact/1",
        "name": "runs/demo/ckpt.pt",
        "file": {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 1, "opset": 18, "parameters": 1},
        "classes": list(CLASSES),
        "decoding": {"height": 8, "width": 8, "channels": 1},
        "source": {"name": "runs/demo/ckpt.pt", "sha256": "00"},
        "checked": {"images": 1, "batch_sizes": [1], "largest_difference": 0.0, "largest_logit": 1.0},
        "created": "2026-01-01T00:00:00+00:00",
        "reference_tolerance": 1e-4,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@contextmanager
def serving(service: FakeService) -> Iterator[str]:
    """Serve /metrics and /v2/health/ready on loopback, a redirection for everything else; yields HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not service.answers:
                self.close_connection = True
                return
            body = service.text() if self.path == "/metrics" else b'{"reasons": ["its worker is gone"]}'
            ready = service.metrics.registry.get_sample_value("robustcls_ready") == 1
            status = 200 if self.path == "/metrics" or ready else 503
            self.send_response(status if self.path in ("/metrics", "/v2/health/ready") else 307)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
