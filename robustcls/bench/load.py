"""The client of the suite serve, in a process of its own: `python -m robustcls.bench.load`, a job as JSON on stdin.

Closed loop: each connection sends its next request once it was answered. Open loop: the times of arrival are fixed beforehand,
and a latency counts from them, so that waiting is seen wherever it happens. Nothing but the standard library.
"""

import asyncio
import base64
import gc
import json
import re
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

MISSED, BROKEN = 0, -1  # in place of a status: not answered within the deadline; the connection ended
SPIN = 0.002  # seconds before an arrival in which the clock is read again and again: a timer may be a millisecond late
FIRST = 0.05  # seconds from the start to the first arrival
PAUSE = 0.1  # seconds after a connection that could not be opened
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")


@dataclass
class Job:
    """What is sent. With a rate in open loop, else in closed loop over so many connections."""

    port: int
    requests: list[bytes]  # whole ones, sent in turns
    deadline: float  # seconds, after which the client hangs up
    connections: int  # at most, in open loop
    rate: float | None = None  # arrivals per second
    count: int | None = None  # of requests; in closed loop either that
    seconds: float | None = None  # or the time in which requests are sent
    spin: bool = False  # where the client has a processor of its own
    host: str = "127.0.0.1"


@dataclass
class Log:
    """Of each request, by its number, in seconds of the clock: when it was due, was done, and how it ended."""

    due: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    late: list[float] = field(default_factory=list)  # of arrivals: how much later this client came to them
    resent: set[int] = field(default_factory=set)

    def add(self, due: float) -> int:
        """The number of a new request."""
        self.due.append(due)
        self.done.append(due)
        self.status.append(MISSED)
        return len(self.due) - 1


class Connection(asyncio.Protocol):
    """A connection that is kept, with at most one request on its way."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.number: int | None = None  # of the request on its way
        self.used = False  # has answered before
        self.head: tuple[int, bool] | None = None  # status, and whether the service closes
        self.end = 0
        self.received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.load.free(self)

    def send(self, number: int) -> None:
        self.number = number
        self.transport.write(self.load.job.requests[number % len(self.load.job.requests)])

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.head is None:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self.received[:end]).lower()
            length = LENGTH.search(head)
            if length is None:
                self.transport.abort()
                return
            self.head, self.end = (int(head[9:12]), b"connection: close" in head), end + 4 + int(length[1])
        if len(self.received) < self.end:
            return
        (status, closes), number = self.head, self.number
        self.head, self.number, self.used = None, None, True
        self.received.clear()
        if number is not None:
            self.load.ended(number, status)
        if closes:
            self.transport.abort()
        else:
            self.load.free(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.load.lost(self)


class Load:
    """Sends a job's requests over its connections."""

    def __init__(self, job: Job) -> None:
        self.job, self.log = job, Log()
        self.idle: list[Connection] = []  # the latest last, which is used first
        self.waiting: deque[int] = deque()
        self.flying: deque[tuple[float, int, Connection]] = deque()  # deadline, number: nearly in their order
        self.connections = self.open = 0
        self.until = float("inf")  # when requests cease to be due
        self.over = False
        self.tasks: set[asyncio.Task] = set()

    async def run(self) -> dict[str, Any]:
        """What became of each request, as JSON."""
        self.loop = asyncio.get_running_loop()
        began = self.loop.time() + FIRST
        cpu = time.process_time()
        await (self._closed(began) if self.job.rate is None else self._arrivals(began, self.job.rate))
        while self.open:
            await asyncio.sleep(0.001)
            self.expire()
        self.over = True
        for connection in self.idle:
            connection.transport.abort()
        log, elapsed = self.log, self.loop.time() - began + FIRST
        return {
            "seconds": (self.until if self.until < float("inf") else max(log.done, default=began)) - began,
            "status": log.status,
            "latency": [done - due for due, done in zip(log.due, log.done, strict=True)],
            "in_time": [done <= self.until for done in log.done],
            "late": log.late,
            "busy": (time.process_time() - cpu) / elapsed,
        }

    async def _closed(self, began: float) -> None:
        self.until = began + self.job.seconds if self.job.seconds else float("inf")
        await asyncio.sleep(began - self.loop.time())
        for _ in range(self.job.connections):
            self._connect()
        while self._more():
            await asyncio.sleep(0.001 if self.job.count else 0.01)
            self.expire()

    async def _arrivals(self, began: float, rate: float) -> None:
        assert self.job.count is not None
        self.until = began + self.job.count / rate
        for number in range(self.job.count):
            due = began + number / rate
            await asyncio.sleep(0)
            while (left := due - self.loop.time()) > 0:
                spins = self.job.spin and left < SPIN
                await asyncio.sleep(0 if spins else min(left - SPIN * self.job.spin, 0.01))
                self.expire()
            self.log.late.append(self.loop.time() - due)
            self.waiting.append(self.log.add(due))
            self.open += 1
            if self.idle:
                self.free(self.idle.pop())
            elif self.connections < self.job.connections:
                self._connect()
            self.expire()

    def _more(self) -> bool:
        """Whether a closed loop goes on."""
        fewer = self.job.count is None or len(self.log.due) < self.job.count
        return self.job.rate is None and fewer and self.loop.time() < self.until

    def free(self, connection: Connection) -> None:
        """Sends what comes next, where there is something."""
        if self._more():
            self.waiting.append(self.log.add(self.loop.time()))
            self.open += 1
        if not self.waiting:
            self.idle.append(connection)
            return
        number = self.waiting.popleft()
        self.flying.append((self.log.due[number] + self.job.deadline, number, connection))
        connection.send(number)

    def ended(self, number: int, status: int) -> None:
        self.log.done[number], self.log.status[number] = self.loop.time(), status
        self.open -= 1

    def lost(self, connection: Connection) -> None:
        """Opens another where it is needed. A request on a kept connection that the service closed is sent once more."""
        self.connections -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        if (number := connection.number) is not None:
            connection.number = None
            if connection.used and not connection.received and number not in self.log.resent:
                self.log.resent.add(number)
                self.waiting.appendleft(number)
            else:
                self.ended(number, BROKEN)
        if self.waiting or self._more():
            self._connect()

    def expire(self) -> None:
        """Hangs up on what was not answered within the deadline."""
        now = self.loop.time()
        while self.flying and self.flying[0][0] <= now:
            _, number, connection = self.flying.popleft()
            if connection.number == number:
                connection.number = None
                self.ended(number, MISSED)
                connection.transport.abort()
        while self.waiting and self.log.due[self.waiting[0]] + self.job.deadline <= now:
            self.ended(self.waiting.popleft(), MISSED)

    def _connect(self) -> None:
        self.connections += 1
        task = self.loop.create_task(self._connected())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connected(self) -> None:
        try:
            await self.loop.create_connection(lambda: Connection(self), self.job.host, self.job.port)
        except OSError:
            self.connections -= 1
            await asyncio.sleep(PAUSE)
            if not self.over and (self.waiting or self._more()):
                self._connect()


def main() -> None:
    job = json.load(sys.stdin)
    requests = [base64.b64decode(one) for one in job.pop("requests")]
    gc.disable()
    json.dump(asyncio.run(Load(Job(requests=requests, **job)).run()), sys.stdout)


if __name__ == "__main__":
    main()
