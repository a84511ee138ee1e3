"""`robustcls serve --engine ray`."""

import importlib.util
import re
import signal
import subprocess
import sys
import threading

import numpy
import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from robustcls.core.errors import InputError
from robustcls.serving.config import ServeConfig
from tests.helpers.serving import binary_request, json_request, running, some_images

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'ray[serve]'")
INFER = "/v2/models/small/infer"
SCALING = {
    "target_ongoing_requests": 2, "upscale_delay_s": 0.5, "downscale_delay_s": 1.0, "metrics_interval_s": 0.2,
    "look_back_period_s": 1.0,
}  # fmt: skip
PROGRAM = f"""
import sys
from robustcls.serving.config import ServeConfig
from robustcls.serving.ray_engine import serve
config = ServeConfig(engine="ray", replicas="1:2", port=0, drain=1.0)
serve([sys.argv[1]], config, lambda line: print(line, file=sys.stderr, flush=True), {SCALING!r})
"""
WITHOUT = """
import sys
sys.modules["ray"] = None
from robustcls.cli.main import main
main(sys.argv[1:])
"""


def run(*arguments, program=("-m", "robustcls")):
    command = [sys.executable, *program, "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        ("", "is not a number of replicas"),
        ("0", "is not a number of replicas"),
        ("-1", "is not a number of replicas"),
        ("two", "is not a number of replicas"),
        ("1:", "is not a number of replicas"),
        ("1:2:3", "is not a number of replicas"),
        ("1.5", "is not a number of replicas"),
        ("²", "is not a number of replicas"),
        ("99999", "is not a number of replicas"),
        ("4:1", "ends before it begins"),
    ],
)
def test_replicas_that_are_none_are_refused(replicas, words):
    with pytest.raises(InputError, match=words):
        ServeConfig(engine="ray", replicas=replicas)


@pytest.mark.parametrize(("replicas", "expected"), [("1", (1, 1)), ("3", (3, 3)), ("1:4", (1, 4)), ("2:2", (2, 2))])
def test_replicas_are_a_number_or_a_range(replicas, expected):
    assert ServeConfig(engine="ray", replicas=replicas).replica_range == expected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "ray", "--replicas", "4:1"], "--replicas 4:1 ends before it begins"),
        (["--replicas", "2"], "--replicas 2 needs --engine ray"),
    ],
)
def test_what_cannot_be_scaled_ends_with_status_2(arguments, words, artefact):
    outcome = run("--model", artefact, *arguments)
    assert outcome.returncode == 2
    assert words in " ".join(outcome.stderr.split())
    assert "Traceback" not in outcome.stderr


def test_the_missing_extra_is_one_line_with_the_command(artefact):
    outcome = run("--model", artefact, "--engine", "ray", program=("-c", WITHOUT))
    assert outcome.returncode == 2
    assert "pip install 'robustcls[serve,ray]'" in " ".join(outcome.stderr.split())
    assert "Traceback" not in outcome.stderr


@needs_ray
@pytest.mark.slow
def test_an_artefact_that_does_not_run_here_is_one_line(artefact, tmp_path):
    for file in artefact.iterdir():
        if file.is_file() and file.name != "reference.npz":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    outcome = run("--model", tmp_path, "--engine", "ray")
    assert outcome.returncode == 2
    assert "reference.npz" in outcome.stderr
    assert "Traceback" not in outcome.stderr


@needs_ray
def test_what_build_is_given_is_checked(artefact):
    from robustcls.serving.ray_app import build

    for wrong, words in (
        ({}, "lists no artefact"),
        ({"models": str(artefact)}, "lists no artefact"),
        ({"models": [str(artefact)], "bach": 3}, "did you mean 'batch'"),
        ({"models": [str(artefact)], "replicas": "0"}, "not a number of replicas"),
    ):
        with pytest.raises(InputError, match=words):
            build(wrong)


@needs_ray
@pytest.mark.slow
def test_replicas_follow_the_load_and_no_request_fails(artefact):
    """The number of replicas goes from 1 to 2 to 1. After SIGTERM, the service is not ready, but still answers; the exit status
    is 0."""
    body, headers = binary_request(some_images(1))
    statuses = []
    clients = [threading.Event() for _ in range(8)]

    with running(f"small={artefact}", program=("-c", PROGRAM)) as service:

        def ask(stop):
            while not stop.is_set():
                try:
                    statuses.append(service.ask(INFER, body, headers)[0])
                except OSError as error:
                    statuses.append(repr(error))

        def replicas():
            said = [re.match(r"(\d+) replicas?\b", line) for line in list(service.log)]
            return [int(one[1]) for one in said if one]

        threads = [threading.Thread(target=ask, args=[stop], daemon=True) for stop in clients]
        for thread in threads:
            thread.start()
        assert service.until(lambda: replicas()[-1:] == [2], 90), replicas()
        before = len(statuses)
        assert service.until(lambda: len(statuses) > before + 200)
        for stop in clients[1:]:
            stop.set()
        assert service.until(lambda: replicas()[-1:] == [1], 90), replicas()
        before = len(statuses)
        assert service.until(lambda: len(statuses) > before + 50)
        assert replicas()[0] == 1
        assert 2 in replicas()

        service.child.send_signal(signal.SIGTERM)
        assert service.until(lambda: not service.ready(), 5)
        before = len(statuses)
        assert service.until(lambda: len(statuses) > before)
        clients[0].set()
        for thread in threads:
            thread.join(30)
        assert service.child.wait(60) == 0
    assert set(statuses) == {200}
    assert any("no authentication by default" in line for line in service.log)
    assert not any("Traceback" in line for line in service.log)


@needs_ray
@pytest.mark.slow
def test_it_answers_as_the_local_engine_bit_for_bit_and_refuses_the_same(artefact):
    both = "--model", f"small={artefact}", "--max-body", "0.02"
    with running(*both) as local, running(*both, "--engine", "ray", "--drain", "0") as service:
        for image in some_images(20):
            body, headers = binary_request(image[None])
            status, expected = local.ask(INFER, body, headers)
            assert status == 200
            assert service.ask(INFER, body, headers) == (200, expected)
        floats = numpy.float32(some_images(1)) / 255
        wrong = json_request(floats * 300)
        for body, path in ((wrong, INFER), ({}, INFER), (wrong, "/v2/models/other/infer"), (b"x" * 30_000, INFER)):
            assert service.ask(path, body) == local.ask(path, body)
            assert local.ask(path, body)[0] in (400, 404, 413)
        for path in ("/v2", "/v2/models/small", "/v2/health/live", "/v2/health/ready"):
            assert service.ask(path) == local.ask(path)
        metrics = re.search(r"metrics of all replicas at (\S+)", " ".join("".join(service.log).split()))[1]
        assert metrics.startswith("http://127.0.0.1:")

        def predictions():
            service.address, kept = metrics.removesuffix("/metrics"), service.address
            try:
                lines = service.ask("/metrics")[1].decode().splitlines()
            finally:
                service.address = kept
            return sum(float(line.split()[-1]) for line in lines if line.startswith("ray_robustcls_predictions_total{"))

        assert service.until(lambda: predictions() == 20, 60)
        service.child.send_signal(signal.SIGINT)
        assert service.child.wait(60) == 130
