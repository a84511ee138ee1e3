"""The client of the suite `serve` against a server with known answers, and its statistics against closed forms."""

import asyncio
import math
import os
import subprocess
import sys
from contextlib import asynccontextmanager

import pytest
from scipy.stats import binom

from robustcls.bench.latency import Answers, interval, quantile
from robustcls.bench.load import BROKEN, MISSED, Job, Load
from robustcls.bench.service import Payload, _family, _whole, memory
from robustcls.bench.serving import SHARES, highest, overload

BODY = b"some bytes"
REQUESTS = [_whole("/infer", 1, Payload(BODY + str(number).encode(), {"X-Extra": "y"})) for number in range(3)]


class Server:
    """A server that answers each request with what the coroutine `answer(number)` returns: parts to send, None to close the
    connection, or "" to send nothing."""

    def __init__(self, answer):
        self.answer = answer
        self.bodies, self.connections, self.hung_up = [], 0, 0
        self.now = self.most = 0

    async def serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
                self.bodies.append(await reader.readexactly(length))
                self.now += 1
                self.most = max(self.most, self.now)
                parts = await self.answer(len(self.bodies) - 1)
                self.now -= 1
                if parts is None:
                    return
                for part in parts:
                    writer.write(part)
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up += 1
        finally:
            writer.close()

    @asynccontextmanager
    async def running(self):
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]


def response(status=200, body=b"{}", headers=b""):
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)


async def at_once(number):
    return [response()]


def load(answer, **job):
    """Return the server and the log of the requests."""
    server = Server(answer)

    async def run():
        async with server.running() as port:
            log = await Load(Job(**{"port": port, "requests": REQUESTS, "deadline": 20, "connections": 4} | job)).run()
            await asyncio.sleep(0.05)  # until the server has seen closed connections
            return log

    return server, asyncio.run(run())


@pytest.mark.parametrize("connections", [1, 4])
def test_a_closed_loop_sends_so_many_over_so_many_connections(connections):
    server, log = load(at_once, count=40, connections=connections)
    assert log["status"] == [200] * 40
    assert server.connections == connections
    assert server.most <= connections
    assert sorted(server.bodies) == sorted(BODY + str(number % 3).encode() for number in range(40))
    assert log["seconds"] > 0


def test_a_closed_loop_of_some_time_counts_what_was_answered_in_it():
    held = []

    async def answer(number):
        if number >= 8:  # answered after the measured time
            held.append(number)
            await asyncio.sleep(0.5)
        return [response()]

    server, log = load(answer, seconds=0.3, connections=4)
    assert len(log["status"]) == len(server.bodies) == 12
    answers = Answers.of(log)
    assert (answers.answered, answers.in_window, len(held)) == (12, 8, 4)
    assert answers.rate == pytest.approx(8 / 0.3)


def test_an_open_loop_does_not_wait_for_answers():
    count, rate = 10, 200
    everything = None

    async def answer(number):
        nonlocal everything
        everything = everything or asyncio.Event()
        if number == count - 1:
            everything.set()
        await everything.wait()  # a closed loop would wait forever
        return [response()]

    server, log = load(answer, rate=rate, count=count, connections=count)
    assert log["status"] == [200] * count
    assert server.most == count
    for number, latency in enumerate(log["latency"]):
        assert latency >= (count - 1 - number) / rate  # from its due time to the last arrival
    assert log["seconds"] == pytest.approx(count / rate)


def test_time_that_a_request_waits_for_a_connection_counts():
    delay, rate, count = 0.03, 500, 6

    async def answer(number):
        await asyncio.sleep(delay)
        return [response()]

    server, log = load(answer, rate=rate, count=count, connections=1)
    assert server.connections == server.most == 1
    assert log["status"] == [200] * count
    for number, latency in enumerate(log["latency"]):
        assert latency >= (number + 1) * delay - number / rate - 1e-3  # one connection serves all, one by one


@pytest.mark.parametrize("spin", [False, True])
def test_what_is_not_answered_in_time_is_missed_and_the_client_hangs_up(spin):
    async def answer(number):
        await asyncio.sleep(0 if number % 2 else 3600)
        return [response()]

    server, log = load(answer, rate=200, count=10, connections=10, deadline=0.2, spin=spin)
    answers = Answers.of(log)
    assert (answers.sent, answers.answered, answers.missed, answers.errors) == (10, 5, 5, 0)
    assert log["status"].count(MISSED) == 5
    assert len(server.bodies) == 10


def test_what_waits_in_the_client_is_missed_too():
    async def answer(number):
        await asyncio.sleep(3600)

    server, log = load(answer, rate=100, count=6, connections=2, deadline=0.1)
    assert log["status"] == [MISSED] * 6
    assert server.connections <= 6


def test_refusals_are_told_from_answers():
    async def answer(number):
        return [response(200 if number < 7 else 503 if number < 10 else 500)]

    _, log = load(answer, rate=500, count=12)
    answers = Answers.of(log)
    assert (answers.answered, answers.refused, answers.errors, answers.missed) == (7, 3, 2, 0)


def test_answers_in_pieces_and_with_other_letters_are_read_whole():
    async def answer(number):
        whole = response(200, b"x" * 1000).replace(b"Content-Length", b"content-length")
        return [whole[at : at + 7] for at in range(0, len(whole), 7)]

    _, log = load(answer, count=9)
    assert log["status"] == [200] * 9


@pytest.mark.parametrize("told", [True, False])
def test_connections_that_the_server_closes_are_opened_again(told):
    closing = []

    async def answer(number):
        if not told and number in (3, 6):  # a kept connection closes before any answer
            closing.append(number)
            return None
        return [response(headers=b"Connection: close\r\n" if told else b"")]

    server, log = load(answer, count=12, connections=1)
    assert log["status"] == [200] * 12
    assert server.connections == (12 if told else 3)
    assert len(server.bodies) == 12 + len(closing)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b""])
def test_what_is_no_answer_is_an_error(answer):
    async def broken(number):
        return [answer] if answer else None

    _, log = load(broken, count=3, connections=1)
    assert log["status"] == [BROKEN] * 3
    assert Answers.of(log).errors == 3


def test_without_a_server_everything_is_missed():
    log = asyncio.run(Load(Job(port=1, requests=REQUESTS, deadline=0.2, connections=2, rate=100, count=5)).run())
    assert log["status"] == [MISSED] * 5


def test_quantiles_by_hand():
    hundred = [float(number) for number in range(1, 101)]
    assert [quantile(hundred, q) for q in (0.01, 0.5, 0.99)] == [1, 50, 99]
    assert quantile(hundred, 0.99, larger=1) == 100  # the 100th of 101
    assert quantile(hundred, 0.99, larger=2) is None  # the 101st of 102 has no latency
    assert quantile([], 0.5) is None
    assert quantile([7.0], 0.5) == 7


def test_intervals_are_order_statistics():
    hundred = [float(number) for number in range(1, 101)]
    assert interval(hundred, 0.5) == [40, 61]  # as in tables for the median
    assert interval(hundred, 0.99)[1] is None  # 100 values give no upper bound
    assert interval([], 0.5) == [None, None]
    for n, q in ((5000, 0.99), (300, 0.5), (1000, 0.9)):
        low, high = interval([float(number) for number in range(1, n + 1)], q)
        covered = sum(binom.pmf(below, n, q) for below in range(int(low), int(high)))
        assert covered >= 0.95
        assert covered - binom.pmf(int(low), n, q) - binom.pmf(int(high) - 1, n, q) < 0.95 + 0.01


def test_a_load_in_numbers_by_hand():
    log = {
        "status": [200, 503, 200, MISSED, BROKEN, 504, 429, 200],
        "latency": [0.002, 0.01, 0.004, 1.0, 0.1, 0.9, 0.02, 0.006],
        "in_time": [True] * 7 + [False], "late": [0.0] * 7 + [0.001], "seconds": 2.0, "busy": 0.5,
    }  # fmt: skip
    answers = Answers.of(log)
    assert (answers.sent, answers.answered, answers.refused, answers.missed, answers.errors) == (8, 3, 2, 2, 1)
    assert answers.latencies == [2, 4, 6]
    assert answers.rate == 1.0  # the last answer came too late
    assert answers.accepted(0.5) == 6  # the third of six, without the two that were refused
    assert answers.accepted(0.99) is None
    assert answers.quantile(0.25) == 4
    found = overload(answers, capacity=4.0)
    assert found["of_capacity"] == 0.25
    assert found["refused"] == 0.25
    assert (found["refusal_p50_ms"], found["refusal_p99_ms"]) == (10, 20)
    assert found["accepted_p99_ms"] is None
    assert answers.about()["late_p99_ms"] == 1.0


@pytest.mark.parametrize("bound", [0.0, *SHARES])
def test_the_highest_rate_is_found_by_bisection(bound):
    tried = []

    def passes(share):
        tried.append(share)
        return share <= bound

    assert highest(SHARES, passes) == (bound if bound in SHARES else 0.0)
    assert len(tried) <= math.ceil(math.log2(len(SHARES) + 1))
    assert len(set(tried)) == len(tried)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone tells")
def test_memory_is_that_of_a_process_and_its_children():
    block = "import time, subprocess, sys; held = bytearray(64 << 20); {}print(1, flush=True); time.sleep(60)"
    child = block.format("")
    both = block.format(f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=-1); p.stdout.readline(); ")
    with subprocess.Popen([sys.executable, "-c", both], stdout=subprocess.PIPE) as parent:
        try:
            parent.stdout.readline()
            found = memory(parent.pid)
        finally:
            for pid in _family(parent.pid):
                os.kill(pid, 9)
    assert 128 < found["pss_mb"] <= found["rss_mb"] < 400
