"""The suite `serve`: all payloads contain the same image, and a real service is measured."""

import json
import os
import sys

import numpy
import pytest

from robustcls.bench import service
from robustcls.bench.service import Contestant, Payload, cores, running
from robustcls.bench.serving import Subject, ours
from robustcls.cli.main import main
from robustcls.core.errors import InputError
from tests.helpers.serving import CLASSES, by_hand, small_artefact

pytest.importorskip("onnxscript")
MEASURED = {
    "requests_per_second", "sustained_per_second", "p50_ms", "p99_ms", "single_ms", "onnxruntime_ms", "overhead_ms",
    "of_capacity", "refused", "ready_seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    return small_artefact(tmp_path_factory.mktemp("bench") / "small")


@pytest.fixture(scope="module")
def subject(artefact):
    return Subject.of(artefact)


@pytest.mark.slow
def test_labels_are_those_of_the_file_alone(artefact, subject):
    found = by_hand(artefact, subject.pixels.astype(numpy.float32) / numpy.float32(255))
    assert subject.labels == [CLASSES[label] for label in found.argmax(1)]
    assert len(subject.labels) == 16


def test_every_payload_is_the_same_image(subject):
    pytest.importorskip("pydantic_core")
    from robustcls.results.artefact import Manifest
    from robustcls.serving import protocol
    from robustcls.serving.worker import as_pixels, decode_all

    shape = subject.manifest.input_size
    found = {one.name: one.payloads for one in ours(subject, 1.0)}
    assert list(found) == ["robustcls, JSON", "robustcls, raw UINT8", "robustcls, PNG"]
    decoding = Manifest.of(subject.folder).decoding
    for payloads in found.values():
        for payload, image in zip(payloads, subject.pixels, strict=True):
            request = protocol.parse(payload.body, payload.headers.get("Inference-Header-Content-Length"), shape)
            pixels = request.pixels if request.encoded == [] else decode_all(request.encoded, decoding, 10**6)
            assert numpy.array_equal(as_pixels(pixels), as_pixels(image[None]))
            assert [one.name for one in request.outputs] == ["label", "probabilities"]


def test_server_and_client_have_a_processor_each_where_there_are_two(monkeypatch):
    for there, expected in (({5, 2, 9}, (2, 9)), ({3}, (None, None))):
        monkeypatch.setattr(service.os, "sched_getaffinity", lambda pid, there=there: there, raising=False)
        assert cores() == expected
    monkeypatch.delattr(service.os, "sched_getaffinity")
    assert cores() == (None, None)


@pytest.mark.parametrize(
    ("siblings", "found"), [("0-1", True), ("0,2", False), ("0-3,8-11", True), ("", None), (None, None)]
)
def test_threads_of_one_core_are_told(siblings, found, monkeypatch):
    def read(path, encoding):
        assert str(path).endswith("cpu0/topology/thread_siblings_list")
        if siblings is None:
            raise FileNotFoundError
        return f"{siblings}\n"

    monkeypatch.setattr(service.Path, "read_text", read)
    assert service.of_one_core(0, 1) is found


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no choice of processors here")
def test_a_child_runs_on_its_processor_and_the_parent_where_it_ran():
    before = os.sched_getaffinity(0)
    core = min(before)
    with service.on_core(core):
        assert os.sched_getaffinity(0) == {core}
    with pytest.raises(RuntimeError), service.on_core(core):
        raise RuntimeError
    assert os.sched_getaffinity(0) == before


SERVER = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"label": "cat"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def contestant(code):
    payloads = [Payload(b"{}", {})] * 2
    return Contestant("other", [sys.executable, "-c", code, "{port}"], "/", payloads, lambda answer: answer["label"])


def test_a_wrong_answer_ends_the_turn():
    with running(contestant(SERVER), ["cat", "cat"], None) as (pid, port, seconds):
        assert seconds > 0
        process = pid
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with (
        pytest.raises(InputError, match="other predicts cat, but onnxruntime itself predicts dog"),
        running(contestant(SERVER), ["cat", "dog"], None),
    ):
        pass


def test_a_service_that_does_not_start_says_why():
    broken = contestant("raise SystemExit('no model here')")
    with pytest.raises(InputError, match="other does not start: no model here"), running(broken, ["cat"], None):
        pass


@pytest.mark.parametrize("flag", ["--seconds", "--deadline"])
def test_no_time_is_refused(flag, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "--suite", "serve", flag, "0"])
    assert end.value.code == 2
    assert f"{flag} 0 is not a time" in capsys.readouterr().err.replace("=", " ")


@pytest.mark.slow
def test_the_suite_from_end_to_end(artefact, tmp_path, capsys):
    for package in ("starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(package)
    out = tmp_path / "bench.json"
    with pytest.raises(SystemExit) as end:
        main(["bench", "--suite", "serve", "--model", str(artefact), "-n", "20", "--seconds", "0.2", "--rounds", "2",
              "--out", str(out)])  # fmt: skip
    assert end.value.code in (0, None)
    told = capsys.readouterr()
    order = [line.split(": ")[1] for line in told.err.splitlines() if "round " in line]
    names = ["robustcls, JSON", "robustcls, raw UINT8", "robustcls, PNG"]
    assert order == names + names[::-1]
    assert max(len(line) for line in told.out.splitlines() if line != str(out)) <= 80
    result = json.loads(out.read_text())
    assert result["schema"] == "robustcls/bench/1"
    suite = result["suites"]["serve"]
    assert {"python", "onnxruntime", "starlette", "uvicorn"} <= suite["versions"].keys()
    assert suite["plan"] == {"requests": 20, "seconds": 0.2, "deadline": 1.0}
    assert list(suite["rows"]) == names
    for name, row in suite["rows"].items():
        assert row.keys() >= MEASURED, row
        assert row["precision"] == "fp32"
        for turn in suite["rounds"][name]:
            assert turn["half"]["sent"] == 20
            assert turn["overhead_ms"] == turn["single_ms"] - turn["onnxruntime_ms"]
            assert turn["half"]["errors"] == 0
            assert turn["requests_per_second"] == max(one["per_second"] for one in turn["closed"].values())
            assert turn["double"]["sent"] >= 2
    with pytest.raises(SystemExit) as end:
        main(["bench", str(out), "--markdown"])
    assert "| robustcls, PNG" in capsys.readouterr().out
