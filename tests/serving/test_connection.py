"""HTTP connections that misbehave, and how the service refuses them."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import threading
import time

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from tests.helpers.serving import binary_request, json_request, running, some_images

INFER = "/v2/models/small/infer"
BODY = json.dumps(json_request(some_images(1), "UINT8")).encode()


def head(path=INFER, length=None, method="POST", more=""):
    length = len(BODY) if length is None else length
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {length}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def service(artefact):
    with running("--model", f"small={artefact}", "--timeout", "1.5", "--max-body", "1", "--connections", "20") as found:
        yield found


@contextlib.contextmanager
def connected(service):
    host, _, port = service.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        yield connection


def answers(connection, count=1):
    """Return status, headers and body of `count` answers; fewer if the service closes the connection."""
    found, text = [], b""
    while len(found) < count:
        while b"\r\n\r\n" not in text:
            if not (piece := connection.recv(1 << 16)):
                return found
            text += piece
        lines, _, text = text.partition(b"\r\n\r\n")
        first, *rest = lines.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in rest)
        size = int(headers.get("content-length", 0))
        while len(text) < size and (piece := connection.recv(1 << 16)):
            text += piece
        found.append((int(first.split()[1]), headers, text[:size]))
        text = text[size:]
    return found


def is_cut(send, seconds=20):
    """Whether the service resets the connection while a client goes on sending."""
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            send()
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


def is_ended(connection):
    try:
        return connection.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n", b"POST /v2", head()[:-2]], ids=["nothing", "an empty line", "a word", "part"]
)
def test_a_connection_without_a_request_is_ended(sent, service):
    with connected(service) as silent:
        silent.sendall(sent)
        [(status, _, body)] = answers(silent)
        assert status == 408
        assert json.loads(body) == {"error": "no request arrived within 1.5 s"}
        assert is_ended(silent)


@pytest.mark.slow
def test_a_connection_whose_headers_trickle_is_ended(service):
    with connected(service) as slow:
        slow.sendall(head()[:-2])
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 20:
                slow.sendall(b"A: b\r\n")
                time.sleep(0.1)
        assert time.monotonic() - began < 15
    assert service.ready()


@pytest.mark.parametrize("line", [b"A: " + b"b" * 1000 + b"\r\n", b"b" * 1000], ids=["many", "one"])
def test_headers_without_end_are_refused(line, service):
    with connected(service) as connection:
        connection.sendall(head()[:-2] + b"X: ")
        with contextlib.suppress(OSError):
            for _ in range(300):
                connection.sendall(line)
        [(status, headers, body)] = answers(connection)
        assert status == 431
        assert "65536 bytes" in json.loads(body)["error"]
        assert headers["connection"] == "close"


def test_the_trailers_of_chunks_are_no_way_around_it(service):
    with connected(service) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        connection.sendall(b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY))
        assert is_cut(lambda: connection.sendall(b"A: " + b"b" * 1000 + b"\r\n"))
    assert service.ready()


def test_no_more_connections_than_allowed(service):
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(service))
        time.sleep(0.2)
        with connected(service) as more:
            [(status, headers, body)] = answers(more)
            assert status == 503
            assert headers["retry-after"] == "1"
            assert json.loads(body) == {"error": "too many connections: try again"}
    assert service.until(service.ready)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_too_much_reads_why(chunked, service):
    connection = http.client.HTTPConnection(service.address.removeprefix("http://"), timeout=30)
    pieces = (b"0" * 65536 for _ in range(400))
    try:
        if chunked:
            connection.request("POST", INFER, pieces)
        else:
            connection.request("POST", INFER, b"".join(pieces))
        answer = connection.getresponse()
        assert answer.status == 413
        assert "1048576" in json.load(answer)["error"]
    finally:
        connection.close()


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00", b"hello\r\n\r\n", b"GET /v2 HTTP/9.9\r\n\r\n"])
def test_what_is_no_request_is_refused_as_json(sent, service):
    before = list(service.log)
    with connected(service) as connection:
        connection.sendall(sent)
        [(status, headers, body)] = answers(connection)
        assert status == 400
        assert headers["content-type"] == "application/json"
        assert "error" in json.loads(body)
        assert is_ended(connection)
    assert service.log == before


def test_requests_that_follow_at_once_are_answered_in_their_order(service):
    with connected(service) as connection:
        connection.sendall((head() + BODY) * 3 + head("/v2", 0, "GET") + head() + BODY)
        found = answers(connection, 5)
    assert [status for status, _, _ in found] == [200] * 5
    assert json.loads(found[3][2])["name"] == "robustcls"
    assert found[0][2] == found[4][2]


def test_an_answer_without_a_body_keeps_its_place(service):
    with connected(service) as connection:
        connection.sendall(head() + BODY + head("/v2", 0, "HEAD") + head("/v2/models/small/ready", 0, "GET"))
        received = b""
        while b'"ready":true' not in received:
            received += connection.recv(1 << 16)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"200"]


@pytest.mark.parametrize("path", [INFER, "/v2/models/other/infer"])
def test_a_body_that_comes_after_its_answer_leaves_the_connection_as_it_was(path, service):
    with connected(service) as connection:
        connection.sendall(head(path))
        time.sleep(0.2)
        connection.sendall(BODY + b"\r\n")
        [(status, _, _)] = answers(connection)
        assert status == (200 if path == INFER else 404)
        connection.settimeout(4)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(30)
        connection.sendall(head() + BODY)
        [(status, _, _)] = answers(connection)
        assert status == 200


def test_garbage_after_a_request_does_not_harm_it(service):
    with connected(service) as connection:
        connection.sendall(head() + BODY + b"garbage\r\n\r\n")
        [(status, _, _)] = answers(connection)
        assert status == 200
        assert is_ended(connection)


def test_another_protocol_is_not_spoken(service):
    upgrade = "Connection: Upgrade\r\nUpgrade: h2c\r\n"
    with connected(service) as connection:
        connection.sendall(head("/v2", 0, "GET", upgrade))
        assert answers(connection)[0][0] == 200
    with connected(service) as connection:
        connection.sendall(head(more=upgrade) + BODY)
        [(status, _, body)] = answers(connection)
        assert status == 400
        assert "Upgrade" in json.loads(body)["error"]


def test_a_refused_expect_100_continue_closes_the_connection(service):
    with connected(service) as connection:
        connection.sendall(head("/v2/models/other/infer", more="Expect: 100-continue\r\n"))
        [(status, headers, _)] = answers(connection)
        assert (status, headers["connection"]) == (404, "close")
        assert is_ended(connection)


def test_a_client_may_wait_for_leave_to_send(service):
    with connected(service) as connection:
        connection.sendall(head(more="Expect: 100-continue\r\n"))
        [(status, _, _)] = answers(connection)
        assert status == 100
        connection.sendall(BODY)
        [(status, _, _)] = answers(connection)
        assert status == 200


def test_a_client_that_reads_nothing_is_ended(service):
    images = some_images(2000)
    body, headers = binary_request(images)
    asked = json.loads(body[: int(headers["Inference-Header-Content-Length"])])
    del asked["parameters"]  # answers in JSON, which are long
    start = json.dumps(asked).encode()
    request = head(length=len(start) + images.nbytes, more=f"Inference-Header-Content-Length: {len(start)}\r\n") + start
    with connected(service) as connection:
        assert is_cut(lambda: connection.sendall(request + images.tobytes()))
    assert service.until(lambda: service.metric("robustcls_inflight_requests") == 0)


def test_a_client_that_reads_nothing_does_not_hold_up_the_end(artefact):
    with (
        running("--model", f"small={artefact}", "--timeout", "2", "--drain", "0") as service,
        connected(service) as one,
    ):
        for _ in range(3):
            one.sendall(head("/metrics", 0, "GET") * 60)
        service.child.send_signal(signal.SIGTERM)
        assert service.child.wait(60) == 0
        assert not any("Traceback" in line for line in service.log)


def test_a_client_that_sends_without_end_and_reads_nothing_is_ended(service):
    with connected(service) as connection:
        assert is_cut(lambda: connection.sendall(head("/metrics", 0, "GET") * 10))
    assert service.ready()


def test_a_full_service_refuses_before_the_body_and_keeps_the_connection(artefact):
    with (
        running("--model", f"small={artefact}", "--timeout", "20", "--queue", "1") as service,
        contextlib.ExitStack() as stack,
    ):
        [worker] = service.workers()
        os.kill(worker, signal.SIGSTOP)
        held = []
        for _ in range(2):  # one request is computed, one waits
            held.append(stack.enter_context(connected(service)))
            held[-1].sendall(head() + BODY)
            time.sleep(0.3)
        with connected(service) as connection:
            connection.sendall(head())  # the body follows later
            [(status, headers, body)] = answers(connection)
            assert status == 503
            assert int(headers["retry-after"]) >= 1
            assert json.loads(body) == {"error": "1 requests are already waiting: try again"}
            connection.sendall(BODY[:10])
            connection.sendall(BODY[10:] + head() + BODY)
            [(status, _, _)] = answers(connection)
            assert status == 503
            with connected(service) as waits:
                waits.sendall(head(more="Expect: 100-continue\r\n"))
                [(status, headers, _)] = answers(waits)
                assert (status, headers["connection"]) == (503, "close")
            os.kill(worker, signal.SIGCONT)
            assert [answers(one)[0][0] for one in held] == [200, 200]
            time.sleep(0.3)
            connection.sendall(head() + BODY)
            [(status, _, _)] = answers(connection)
            assert status == 200
        assert service.metric('robustcls_rejected_total{reason="busy"}') == 3
        lines = service.ask("/metrics")[1].decode().splitlines()
        [counted] = [line for line in lines if "request_duration_seconds_count" in line and '"503"' in line]
        assert '"/v2/models/{name}/infer"' in counted
        assert float(counted.split()[-1]) == 3


def test_no_more_requests_are_read_at_a_time_than_may_wait(artefact):
    limits = "--timeout", "5", "--queue", "2", "--batch", "1"
    with running("--model", f"small={artefact}", *limits) as service, contextlib.ExitStack() as stack:
        for _ in range(3):
            half = stack.enter_context(connected(service))
            half.sendall(head() + BODY[:10])
        time.sleep(0.3)
        with connected(service) as connection:
            connection.sendall(head() + BODY)
            [(status, _, body)] = answers(connection)
            assert status == 503
            assert json.loads(body) == {"error": "3 requests are being read: try again"}


def test_a_request_on_its_way_when_the_drain_ends_is_answered(artefact):
    with running("--model", f"small={artefact}", "--drain", "0") as service, connected(service) as connection:
        connection.sendall(head() + BODY)
        assert answers(connection)[0][0] == 200
        service.child.send_signal(signal.SIGTERM)
        assert service.until(lambda: not takes_connections(service))
        connection.sendall(head() + BODY)
        [(status, headers, _)] = answers(connection)
        assert (status, headers["connection"]) == (200, "close")
        assert service.child.wait(30) == 0


def takes_connections(service):
    try:
        with connected(service):
            return True
    except OSError:
        return False


def test_many_clients_that_connect_anew_lose_nothing_by_a_drain(artefact):
    lost, done = [], []
    with running("--model", f"small={artefact}", "--drain", "0.5") as service:

        def ask():
            while True:
                try:
                    with connected(service) as connection:
                        connection.sendall(head() + BODY)
                        found = answers(connection)
                except ConnectionRefusedError:
                    return
                except OSError as error:
                    lost.append(error)
                    return
                done.append(found)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert service.until(lambda: len(done) > 50)
        service.child.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert service.child.wait(30) == 0
    assert {found[0][0] for found in done if found} == {200}
    assert len(lost) + sum(not found for found in done) <= len(threads)  # at most one per client at shutdown
