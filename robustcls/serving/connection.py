"""HTTP connections: uvicorn's protocol with additional limits and with cheap refusals.

Under overload most requests are refused, and the cost of each refusal slows down the accepted requests. A refusal is
therefore written as soon as the headers have arrived, without creating a task or a scope and without reading the body.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from robustcls.serving.queue import Queue
from robustcls.serving.refused import Refused
from robustcls.serving.service import Service

HEADERS = 64 << 10  # largest size of a request without its body, in bytes
PIPELINED = 64  # largest number of requests sent before an earlier one is answered
CHUNKED = 8  # with chunked encoding, bytes allowed on the wire for each byte of the body
UNREAD = 256 << 20  # bytes that are read and dropped after a refusal, so that the client gets to read the refusal
LINGER = 5.0  # seconds that the client has for that
LAST = 1.0  # seconds that an idle connection stays open when the service ends: a request may be on its way


class Connection(HttpToolsProtocol):
    """The protocol instance that uvicorn creates for each client.

    service: the service. routes: the queue and the route of each path that accepts images.
    """

    def __init__(self, service: Service, routes: Mapping[bytes, tuple[Queue, str]], **settings: Any) -> None:
        super().__init__(**settings)
        self.service, self.routes = service, routes
        self._since: float | None = None  # time since when it waits for headers; None while there is a request
        self._fed = 0  # bytes of the latest piece of data that are not yet counted for a request
        self._beside = 0  # bytes of the request without its body
        self._body = 0  # bytes of the body
        self._in_body = False
        self._drops = False  # whether the body of a refused request is still arriving and dropped
        self._left: int | None = None  # bytes that are still dropped before closing; None while requests are read
        self._full: float | None = None  # time since when the client has not read what was written

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._since = self.loop.time()
        if len(self.connections) > self.service.config.connections:
            self.end(Refused("busy", "too many connections: try again", 503, retry_after=1))

    def data_received(self, data: bytes) -> None:
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.transport.abort()
            return
        self._fed = len(data)
        self._beside += len(data)
        super().data_received(data)
        if self._left is not None:
            return
        if self._beside > HEADERS + CHUNKED * self._body:
            self.end(_too_long())
        elif self._since is None and self._idle() and self.timeout_keep_alive_task is None:
            if self._in_body:  # the body of a request that is already answered
                self._since = self.loop.time()
            elif not self.transport.is_closing():
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )

    def on_message_begin(self) -> None:
        if self._left is None:
            super().on_message_begin()
            self._beside, self._fed, self._body = self._fed, 0, 0
            self._since = self.loop.time()

    def on_headers_complete(self) -> None:
        if self._left is not None:
            return
        self._since, self._in_body = None, True
        if self._beside > HEADERS and sum(len(name) + len(value) for name, value in self.headers) > HEADERS:
            self.end(_too_long())
            return
        if self.parser.should_upgrade() and self.parser.get_method() == b"POST":  # the parser does not deliver the body
            self.end(
                Refused("protocol", "a request with a body cannot ask for another protocol: send no `Upgrade`", 400)
            )
            return
        if self._idle():  # otherwise an earlier request must be answered first
            try:
                self._check()
            except Refused as refused:
                self._refuse(refused)
                return
        if len(self.pipeline) == PIPELINED:
            self.end(Refused("busy", "too many pipelined requests: wait for answers", 503))
            return
        super().on_headers_complete()
        if self.parser.get_method() != b"HEAD":  # answers to HEAD have no body
            self.cycle.transport = _Together(self.transport, self.cycle)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self._beside -= len(body)
        self._body += len(body)
        most = self.service.config.body_bytes
        if self._drops or self._left is not None:
            return
        if self._body > most:  # with chunked encoding, the size is not known before
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.end(Refused("size", f"the body has more than the {most} bytes that are allowed", 413))
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._beside, self._in_body = 0, False
        if self._idle():
            self._since = None
        if not self._drops and self._left is None:
            super().on_message_complete()
        elif self._left is None:
            self._drops = False
            self.on_response_complete()

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _check(self) -> None:
        """Raise Refused for a request to a model that can be refused without reading its body."""
        queue, _ = self.routes.get(self.url, (None, ""))
        if queue is None or self.parser.get_method() != b"POST":
            return
        queue.check_room(self.loop.time() + self.service.config.timeout)
        if len(self.tasks) >= self.service.at_hand:
            raise Refused("busy", f"{len(self.tasks)} requests are being read: try again", 503, retry_after=1)
        most = self.service.config.body_bytes
        for name, value in self.headers:
            if name == b"content-length" and len(value) < 16 and int(value) > most:
                raise Refused("size", f"the body has {int(value)} bytes, {most} are allowed", 413)

    def _refuse(self, refused: Refused) -> None:
        """Answer with a refusal; keep the connection open if the client wants to."""
        metrics = self.service.metrics
        metrics.rejected.labels(refused.reason).inc()
        metrics.request_seconds.labels("POST", self.routes[self.url][1], str(refused.status)).observe(0)
        keep = self.parser.should_keep_alive() and not (self.expect_100_continue or self.service.draining)
        if keep and refused.status == 503:
            self._drops = True
            self.transport.write(self._response(refused))
        else:
            self._say_last(refused)

    def end(self, refused: Refused) -> None:
        """Refuse everything further on this connection, and close it after pending answers."""
        self.service.metrics.rejected.labels(refused.reason).inc()
        if self._idle() or (self.cycle.disconnected and not self.pipeline):
            self._say_last(refused)
        else:  # an earlier answer is still pending; close after it
            self._left = UNREAD
            self.cycle.keep_alive = False
            self.loop.call_later(self.service.config.timeout + LINGER, self.transport.abort)

    def _say_last(self, refused: Refused) -> None:
        """Answer and close. Data that the client still sends is read and dropped, because closing at once would lose the
        answer."""
        self._left, self._since = UNREAD, None
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.transport.write(self._response(refused, close=True))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.abort)

    def _response(self, refused: Refused, close: bool = False) -> bytes:
        body, headers = refused.answer()
        if close:
            headers["connection"] = "close"
        lines = [b"%s: %s\r\n" % pair for pair in self.server_state.default_headers]
        lines += [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        return b"".join([STATUS_LINE[refused.status], *lines, b"content-length: %d\r\n\r\n" % len(body), body])

    def send_400_response(self, msg: str) -> None:
        """Like uvicorn's method, but with a JSON answer."""
        self.end(Refused("protocol", "not a valid HTTP request", 400))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._full = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._full = None

    def check(self, now: float) -> None:
        """Close the connection if the client neither sends nor reads. The server calls this once a second."""
        limit = self.service.config.timeout
        if self._full is not None and now - self._full > limit:
            self.transport.abort()
        elif self._since is not None and now - self._since > limit:
            if self._in_body:
                self.transport.abort()
            else:
                self.end(Refused("body", f"no request arrived within {limit:g} s", 408))

    def shutdown(self) -> None:
        """Like uvicorn's method at the end of the service, but wait a moment for a request that is on its way."""
        if self._idle():
            self.loop.call_later(LAST, super().shutdown)
        else:
            super().shutdown()


def _too_long() -> Refused:
    return Refused("size", f"the headers have more than the {HEADERS} bytes that are allowed", 431)


class _Together:
    """A transport that writes the headers of an answer together with the body, in one system call and one packet."""

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport, self._cycle, self._head = transport, cycle, b""
        self._asked = cycle.waiting_for_100_continue  # whether the client waits for "100 Continue" to send its body
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self.is_closing():
            return
        if data.startswith(b"HTTP/1.1 100 "):
            self._asked = False
            self._transport.write(data)
        elif self._head:
            self._transport.write(self._head + data)
            self._head = b""
        elif self._asked and self._cycle.keep_alive:  # the body may still arrive and would look like the next request
            self._cycle.keep_alive = False
            self._head = data.removesuffix(b"\r\n") + b"connection: close\r\n\r\n"
        else:
            self._head = data

    def close(self) -> None:
        if self._head and not self.is_closing():
            self._transport.write(self._head)
        self._transport.close()
