"""The load generator of the suite serve, run as a separate process: `python -m robustcls.bench.load`, with a job as JSON on
stdin.

Closed loop: each connection sends the next request after the answer to the previous one. Open loop: the arrival times are
fixed in advance, and latencies count from them, so that all waiting is included. Uses only the standard library.
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

MISSED, BROKEN = 0, -1  # used as a status: not answered within the deadline; the connection ended
SPIN = 0.002  # seconds of busy waiting before an arrival, because a timer may be a millisecond late
FIRST = 0.05  # seconds from the start to the first arrival
PAUSE = 0.1  # seconds to wait after a connection could not be opened
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")


@dataclass
class Job:
    """The load to generate: in open loop if `rate` is given, else in closed loop."""

    port: int
    requests: list[bytes]  # complete requests, sent in turn
    deadline: float  # seconds after which the client disconnects
    connections: int  # number in closed loop, largest number in open loop
    rate: float | None = None  # arrivals per second
    count: int | None = None  # number of requests; in closed loop, give this or `seconds`
    seconds: float | None = None  # duration in which requests are sent
    spin: bool = False  # busy waiting, if the client has its own processor
    host: str = "127.0.0.1"


@dataclass
class Log:
    """The log of all requests, by number. Times are in seconds of the event loop's clock."""

    due: list[float] = field(default_factory=list)  # when the request was due
    done: list[float] = field(default_factory=list)  # when it ended
    status: list[int] = field(default_factory=list)
    late: list[float] = field(default_factory=list)  # delay with which this client handled each arrival
    resent: set[int] = field(default_factory=set)

    def add(self, due: float) -> int:
        """Add a request, and return its number."""
        self.due.append(due)
        self.done.append(due)
        self.status.append(MISSED)
        return len(self.due) - 1


class Connection(asyncio.Protocol):
    """A keep-alive connection, with at most one pending request."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.number: int | None = None  # of the pending request
        self.used = False  # whether it has received an answer before
        self.head: tuple[int, bool] | None = None  # status, and whether the service closes the connection
        self.end = 0  # length of the whole answer
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
    """Send the requests of a job over its connections."""

    def __init__(self, job: Job) -> None:
        self.job, self.log = job, Log()
        self.idle: list[Connection] = []  # the most recently used last; it is used again first
        self.waiting: deque[int] = deque()  # numbers of requests without a connection
        self.flying: deque[tuple[float, int, Connection]] = deque()  # (deadline, number, connection), roughly in order
        self.connections = self.open = 0  # numbers of connections, and of requests that have not ended
        self.until = float("inf")  # when the last request is due
        self.over = False
        self.tasks: set[asyncio.Task] = set()

    async def run(self) -> dict[str, Any]:
        """Run the load; return the outcomes of all requests as JSON-ready values."""
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
        """Whether a closed loop sends further requests."""
        fewer = self.job.count is None or len(self.log.due) < self.job.count
        return self.job.rate is None and fewer and self.loop.time() < self.until

    def free(self, connection: Connection) -> None:
        """Send the next request over a free connection, or keep the connection idle if there is none."""
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
        """Open another connection if needed. A request on a reused connection that the service closed is sent once more."""
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
        """Give up requests that were not answered within the deadline, and close their connections."""
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
