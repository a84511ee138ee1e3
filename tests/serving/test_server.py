"""`robustcls serve` as a process: start, requests, and shutdown."""

import asyncio
import json
import os
import pkgutil
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import robustcls.serving
from tests.helpers.serving import Running, by_hand, json_request, logits_of, running, some_images

ROOT = Path(__file__).parents[2]
INFER = "/v2/models/small/infer"


def run(*arguments):
    command = [sys.executable, "-m", "robustcls", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_it_answers_until_sigterm_and_loses_nothing(artefact):
    sent = json_request(some_images(1), "UINT8")
    answers, failures = [], []
    stop = threading.Event()

    with running("--model", f"small={artefact}", "--drain", "1") as service:

        def ask():
            while not stop.is_set():
                try:
                    answers.append(service.ask(INFER, sent)[0])
                except OSError as error:
                    if not stop.is_set():
                        failures.append(error)
                    return

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert service.until(lambda: len(answers) > 50)
        service.child.send_signal(signal.SIGTERM)
        assert service.until(lambda: not service.ready(), 5)
        before = len(answers)
        assert service.until(lambda: len(answers) > before + 5)  # still answered while it drains
        stop.set()
        for thread in threads:
            thread.join()
        assert service.child.wait(30) == 0
    assert failures == []
    assert set(answers) == {200}


def test_ctrl_c_ends_it_at_once_by_the_status_of_an_interruption(artefact):
    with running("--model", f"small={artefact}", "--drain", "60") as service:
        assert service.until(service.ready)
        service.child.send_signal(signal.SIGINT)
        assert service.child.wait(30) == 130


def test_its_processes_go_when_it_is_killed(artefact):
    with running("--model", f"small={artefact}") as service:
        workers = service.workers()
        assert workers
        service.child.kill()
        service.child.wait()
        assert service.until(lambda: not any(_is_running(one) for one in workers))


def _is_running(number):
    try:
        with open(f"/proc/{number}/stat", encoding="utf-8") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_port_that_is_taken_is_named(artefact):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        outcome = run("--model", artefact, "--port", port)
    assert outcome.returncode == 2
    assert f"robustcls: port {port} is in use: give another with --port" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999"], "is not a port"),
        (["--batch", "0"], "too small"),
        (["--host", ""], "is empty"),
        (["--timeout", "nan"], "is not a number"),
        (["--host", "256.1.1.1"], "cannot listen on 256.1.1.1"),
    ],
)
def test_an_option_that_is_wrong_is_named(arguments, words, artefact):
    outcome = run("--model", artefact, *arguments)
    assert outcome.returncode == 2
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_with_its_standard_streams_closed_it_ends_by_the_same_status(closed, artefact, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"exec {shlex.quote(sys.executable)} -m robustcls serve --port {port} --drain 0 --model"
    wrong = subprocess.run(f"{command} {tmp_path} {closed}", shell=True, timeout=120, check=False)
    assert wrong.returncode == 2
    child = subprocess.Popen(f"{command} {shlex.quote(str(artefact))} {closed}", shell=True)
    try:
        service = Running(child, f"http://127.0.0.1:{port}", [])

        def ready():
            try:
                return service.ready()
            except OSError:
                return False

        assert service.until(ready, 60)
        assert {os.readlink(f"/proc/{one}/fd/2") for one in (child.pid, *service.workers())} == {os.devnull}
        child.terminate()
        assert child.wait(30) == 0
    finally:
        child.kill()
        child.wait()


def test_what_is_no_artefact_is_refused(tmp_path):
    outcome = run("--model", tmp_path)
    assert outcome.returncode == 2
    assert "is no artefact" in outcome.stderr


def test_a_client_that_hangs_up_or_never_ends_its_body_harms_nobody(artefact):
    with running("--model", f"small={artefact}", "--timeout", "1") as service:
        host, _, port = service.address.removeprefix("http://").partition(":")
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf".encode()
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(head)
            with socket.create_connection((host, int(port))) as gone:
                gone.sendall(head)
            images = some_images(2)
            found = logits_of(service.ask(INFER, json_request(images, "UINT8"))[1])
            slow.settimeout(20)
            assert b" 408 " in slow.recv(4096)
        numpy.testing.assert_allclose(found, by_hand(artefact, images.astype(numpy.float32) / 255), rtol=1e-5)
        assert service.until(lambda: service.metric("robustcls_inflight_requests") == 0)
        assert service.metric('robustcls_rejected_total{reason="body"}') == 1


def test_the_client_of_another_project_works_unchanged(artefact):
    http = pytest.importorskip("tritonclient.http")
    images = some_images(3)
    expected = by_hand(artefact, images.astype(numpy.float32) / 255)
    with running("--model", f"small={artefact}") as service:
        client = http.InferenceServerClient(service.address.removeprefix("http://"))
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("small")
        assert client.get_server_metadata()["name"] == "robustcls"
        assert client.get_model_metadata("small")["outputs"][2]["name"] == "label"
        for datatype, sent in (("UINT8", images), ("FP32", images.astype(numpy.float32) / 255)):
            for binary in (True, False):
                tensor = http.InferInput("images", list(sent.shape), datatype)
                tensor.set_data_from_numpy(sent, binary_data=binary)
                asked = [http.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "label")]
                answer = client.infer("small", [tensor], outputs=asked, request_id="7")
                numpy.testing.assert_allclose(answer.as_numpy("logits"), expected, rtol=1e-5)
                assert answer.get_response()["id"] == "7"
        tensor = http.InferInput("images", list(images.shape), "FP32")
        tensor.set_data_from_numpy(images.astype(numpy.float32))
        with pytest.raises(http.InferenceServerException, match="as FP32 has values from 0 to 255"):
            client.infer("small", [tensor])


def test_the_service_and_its_command_import_no_torch_and_no_research_packages():
    names = [module.name for module in pkgutil.walk_packages(robustcls.serving.__path__, "robustcls.serving.")]
    assert "robustcls.serving.worker" in names
    code = (
        "import importlib, sys\n"
        f"for name in {[*names, 'robustcls.cli.serve', 'robustcls.cli.main']!r}:\n"
        "    if '.ray_' not in name: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'torchvision', 'captum', 'foolbox', 'scipy', 'sklearn', 'matplotlib') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_answers_are_sent_without_waiting_for_acknowledgements():
    from robustcls.serving.server import listen

    async def option():
        found = asyncio.get_running_loop().create_future()

        class Accepted(asyncio.Protocol):
            def connection_made(self, transport):
                accepted = transport.get_extra_info("socket")
                found.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

        listener = listen("127.0.0.1", 0)
        async with await asyncio.get_running_loop().create_server(Accepted, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            try:
                return await asyncio.wait_for(found, 10)
            finally:
                writer.close()

    assert asyncio.run(option())


@pytest.mark.parametrize("page", ["README.md", "docs/serve.md"])
def test_the_lines_of_curl_that_are_shown_work(page, artefact, tmp_path):
    if shutil.which("curl") is None or shutil.which("base64") is None:
        pytest.skip("needs curl and base64")
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = re.search(r"^    (\(printf .*\n        curl .*/infer)\n", text, re.MULTILINE)[1]
    Image.fromarray(some_images(1)[0].transpose(1, 2, 0)).save(tmp_path / "photo.png")
    with running("--model", artefact) as service:
        line = shown.replace("http://127.0.0.1:8080", service.address).replace("/artefact/", f"/{artefact.name}/")
        found = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = by_hand(artefact, some_images(1).astype(numpy.float32) / 255)
    numpy.testing.assert_array_equal(logits_of(json.loads(found.stdout)), expected)
