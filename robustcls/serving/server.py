"""Run the service in this process with uvicorn."""

import asyncio
import contextlib
import errno
import functools
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn

from robustcls.core.errors import InputError
from robustcls.serving.app import application, infer_routes
from robustcls.serving.config import ServeConfig
from robustcls.serving.connection import Connection
from robustcls.serving.service import Service

SPARE = 100  # file descriptors in addition to those of client connections
START = 120.0  # seconds within which the models must be ready


def serve(specs: Sequence[str], config: ServeConfig, say: Callable[[str], None]) -> None:
    """Serve artefacts until SIGTERM or Ctrl-C, and then answer the requests that are already accepted.

    Args:
        specs: artefacts, `DIR` or `NAME=DIR`.
        config: the options.
        say: is called with a line for each address and for each problem.

    Raises:
        InputError: if an artefact cannot be served, or the port is in use.
        KeyboardInterrupt: after Ctrl-C, once the accepted requests are answered.
    """
    began = time.monotonic()
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # errors of clients are counted, not logged
    _allow_descriptors(config.connections + SPARE)
    service = Service.of(specs, config, say)
    with listen(config.host, config.port) as listener:
        settings = uvicorn.Config(
            application(service),
            http=functools.partial(Connection, service, infer_routes(service)),  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_keep_alive=30,
        )
        server = _Server(settings, service)
        with asyncio.Runner(loop_factory=settings.get_loop_factory()) as runner:  # uvloop if it is installed
            runner.run(_run(server, service, listener, began))
    if server.interrupted:
        raise KeyboardInterrupt


async def _run(server: "_Server", service: Service, listener: socket.socket, began: float) -> None:
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    where = address(*listener.getsockname()[:2])
    try:
        started = asyncio.create_task(service.until_ready(START))
        await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            for queue in service.queues:
                service.say(
                    f"serving {queue.model.name} version {queue.model.version} at {where}/v2/models/"
                    f"{queue.model.name} (ready after {time.monotonic() - began:.1f} s)"
                )
        started.cancel()
    finally:
        if service.failed:
            server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    """A uvicorn server that drains on SIGTERM: the service reports not ready, so that load balancers use other servers, and
    ends after `drain` seconds."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.interrupted = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's method, but without raising the signal again at the end, so that the exit status is 0."""
        handlers = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % 10 == 0:
            self._check()
        return await super().on_tick(counter)

    def _check(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.check(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Like uvicorn's method, which waits for every client, but close connections of clients that read nothing meanwhile."""
        ending = asyncio.create_task(super().shutdown(sockets))
        while not (await asyncio.wait({ending}, timeout=1))[0]:
            self._check()
        ending.result()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted |= sig == signal.SIGINT
        if self.interrupted or self.service.draining:
            self.service.draining = self.should_exit = True
            return
        self.service.draining = True
        self.service.say(f"draining for {self.service.config.drain:g} s")
        asyncio.get_running_loop().call_later(self.service.config.drain, setattr, self, "should_exit", True)


def _allow_descriptors(count: int) -> None:
    """Raise the limit of open file descriptors to `count`, as far as the system allows."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def address(host: str, port: int) -> str:
    """The beginning of the URL of a host and port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket. Raises InputError if the port is in use, or the address does not belong to this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With an explicit IPPROTO_TCP, asyncio sets TCP_NODELAY, so that the parts of an answer do not wait for acknowledgements.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"port {port} is in use: give another with `port`, or 0 for a free one") from None
        raise InputError(f"cannot listen on {host}, `port={port}`: {error.strerror or error}") from None
    return listener
