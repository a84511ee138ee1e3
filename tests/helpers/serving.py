"""Start a service for a small artefact, and send requests to it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy

SIZE = (3, 12, 12)
CLASSES = ("cat", "dog", "ship")


def small_artefact(folder, seed=0, quantize=None):
    """Export a small network for colour images, and copy the artefact to `folder`."""
    name = Path(folder).name
    return Path(shutil.copytree(Path(_exported(name, seed, quantize).name, name), folder))


@cache
def _exported(name, seed, quantize):
    """Return the temporary folder of the artefact, exported once per process and removed when the process ends."""
    import torch
    from torch import nn

    import robustcls
    from robustcls.core.classifier import Classifier

    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    model = Classifier(net, classes=CLASSES, input_size=SIZE, mean=(0.5,), std=(0.01,), arch="small")
    folder = tempfile.TemporaryDirectory()
    robustcls.export(model, Path(folder.name, name), calibration=torch.rand(600, *SIZE), quantize=quantize)
    return folder


def by_hand(folder, pixels):
    """Return the logits of float32 pixels, computed with onnxruntime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"))
    return session.run(["logits"], {"images": numpy.asarray(pixels, dtype=numpy.float32)})[0]


def some_images(count, seed=0):
    """Return random images, uint8 N,C,H,W."""
    return numpy.random.default_rng(seed).integers(0, 256, (count, *SIZE), dtype=numpy.uint8)


def json_request(pixels, datatype="FP32", **more):
    """Return the JSON of a request."""
    data = numpy.asarray(pixels).ravel().tolist()
    return {
        "inputs": [{"name": "images", "datatype": datatype, "shape": list(numpy.shape(pixels)), "data": data}],
        **more,
    }


def binary_request(pixels, datatype="UINT8", **more):
    """Return body and headers of a request with a raw tensor that asks for raw outputs."""
    raw = numpy.ascontiguousarray(pixels).tobytes()
    tensor = {
        "name": "images", "datatype": datatype, "shape": list(numpy.shape(pixels)),
        "parameters": {"binary_data_size": len(raw)},
    }  # fmt: skip
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}, **more}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def logits_of(answer):
    """Return the logits of a JSON answer."""
    output = next(one for one in answer["outputs"] if one["name"] == "logits")
    return numpy.array(output["data"], dtype=numpy.float32).reshape(output["shape"])


class Running:
    """A service that runs in another process."""

    def __init__(self, child, address, log):
        self.child, self.address, self.log = child, address, log

    def ask(self, path, body=None, headers=None, timeout=30):
        """Send a request; return status and body, with JSON decoded."""
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(self.address + path, content, headers or {})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, text, kind = answer.status, answer.read(), answer.headers["content-type"]
        except urllib.error.HTTPError as error:
            status, text, kind = error.code, error.read(), error.headers["content-type"]
        return status, json.loads(text) if kind == "application/json" else text

    def ready(self):
        return self.ask("/v2/health/ready")[0] == 200

    def until(self, condition, seconds=30):
        """Wait until the condition holds, for at most this many seconds; return whether it does."""
        end = time.monotonic() + seconds
        while not (held := condition()) and time.monotonic() < end:
            time.sleep(0.05)
        return held

    def metric(self, text):
        """Return the sum of the metric series whose lines begin with `text`; 0 if there are none."""
        lines = self.ask("/metrics")[1].decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(text))

    def workers(self):
        """Return the process ids of the compute processes."""
        listed = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        return [int(one) for one in listed]


@contextmanager
def running(*arguments, program=("-m", "robustcls", "serve", "--port", "0")):
    """Run `robustcls serve` on a free port, or another Python program; kill it if the test has not ended it."""
    command = [sys.executable, *program, *map(str, arguments)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "80"})
    lines, address = [], []
    told = threading.Event()

    def read():
        for line in child.stderr:
            lines.append(line)
            if found := re.search(r"http://[^/ ]+", line):
                address.append(found[0])
                told.set()
        told.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        told.wait(120)
        assert address, "".join(lines)
        yield Running(child, address[0], lines)
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
        child.wait()
        reader.join(10)
        child.stderr.close()
