"""Run the service on Ray Serve, on this machine."""

import asyncio
import contextlib
import dataclasses
import io
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

os.environ |= {  # read when Ray is imported, and by the processes that Ray starts
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on every system, so that Ray's processes use the loopback address
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}

import ray
from ray import serve as ray_serve
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from robustcls.core.errors import as_input_error
from robustcls.serving.config import ServeConfig, processors
from robustcls.serving.ray_app import NAME, build
from robustcls.serving.server import START, address, listen
from robustcls.serving.service import Service

APP = "robustcls"
LOOPBACK = "127.0.0.1"
MEMORY = 100 << 20  # bytes of Ray's object store, which requests do not use
WATCH = 1.0  # seconds between two checks of the state
LOGS = LoggingConfig(log_level="WARNING", enable_access_log=False)


def serve(
    specs: Sequence[str], config: ServeConfig, say: Callable[[str], None], autoscaling: Mapping[str, Any] | None = None
) -> None:
    """Serve artefacts until SIGTERM or Ctrl-C, and then answer the requests that are already accepted.

    Args:
        specs: artefacts, `DIR` or `NAME=DIR`.
        config: the options; `threads=0` means one thread for each model of a replica.
        say: is called with a line for each address and for each problem.
        autoscaling: fields of Ray's AutoscalingConfig that override the defaults.

    Raises:
        InputError: if an artefact cannot be served, the port is in use, or Ray does not start.
        KeyboardInterrupt: after Ctrl-C, once the accepted requests are answered.
    """
    began = time.monotonic()
    config = dataclasses.replace(config, threads=config.threads or 1)
    service = Service.of(specs, config, say)
    with listen(config.host, config.port) as listener:
        config = dataclasses.replace(config, port=listener.getsockname()[1])
    asyncio.run(_try(service))
    models = [f"{queue.model.name}={queue.model.folder.resolve()}" for queue in service.queues]
    threads = config.replica_range[1] * config.threads * len(models)
    if threads > processors():
        say(f"note: {config.replica_range[1]} replicas use {threads} threads, on {processors()} processors")
    application = build({**dataclasses.asdict(config), "models": models, "autoscaling": autoscaling or {}})
    handle: DeploymentHandle | None = None
    with _Signals() as signals:
        try:
            handle = _start(application, config, threads, signals)
            say(
                "note: Ray has no authentication by default; the processes of this run authenticate with a random token"
            )
            for queue in service.queues:
                say(
                    f"serving {queue.model.name} version {queue.model.version} at {address(config.host, config.port)}"
                    f"/v2/models/{queue.model.name} (ready after {time.monotonic() - began:.1f} s)"
                )
            say(f"metrics of all replicas at {address(LOOPBACK, ray.nodes()[0]['MetricsExportPort'])}/metrics")
            _watch(say)
        except _Stop:
            if handle is not None and not signals.interrupted:
                say(f"draining for {config.drain:g} s")
                with contextlib.suppress(_Stop):
                    _drain(handle, config.drain)
        finally:
            signals.ignore()
            with contextlib.redirect_stdout(
                io.StringIO()
            ):  # Ray prints warnings about the processes that it ends itself
                if ray.is_initialized():  # otherwise shutdown() would start Ray again
                    ray_serve.shutdown()
                ray.shutdown()
    if signals.interrupted:
        raise KeyboardInterrupt


async def _try(service: Service) -> None:
    """Start and stop the models once in this process, to report errors in one line. Raises InputError."""
    service.start()
    try:
        await service.until_ready(START)
    finally:
        await service.stop()


def _start(
    application: ray_serve.Application, config: ServeConfig, threads: int, signals: "_Signals"
) -> DeploymentHandle:
    """Start Ray and the application, and return once a replica is ready. Raises InputError."""
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with as_input_error("Ray does not start"):
        try:
            ray.init(address="local", include_dashboard=False, num_cpus=max(threads, processors()), num_gpus=0,
                     object_store_memory=MEMORY, logging_level=logging.ERROR, log_to_driver=False)  # fmt: skip
        except SystemExit:  # raised by Ray's own handler of SIGTERM
            raise _Stop from None
        finally:
            signals.install()
        http = HTTPOptions(host=config.host, port=config.port, request_timeout_s=config.timeout + 1)
        ray_serve.start(proxy_location="HeadOnly", http_options=http, logging_config=LOGS)
        return ray_serve.run(application, name=APP, route_prefix="/", logging_config=LOGS)


def _watch(say: Callable[[str], None]) -> NoReturn:
    """Report the number of replicas and their problems whenever they change. Raises InputError if Ray ends."""
    known: tuple[int, str] | None = None
    while True:
        with as_input_error("Ray ended"):
            app = ray_serve.status().applications[APP]
        running = app.deployments[NAME].replica_states.get("RUNNING", 0)
        state = running, "" if app.status == "RUNNING" else f", {app.status.lower()}: {' '.join(app.message.split())}"
        if state != known:
            say(f"{running} replica{'s' * (running != 1)}{state[1]}")
            known = state
        time.sleep(WATCH)


def _drain(handle: DeploymentHandle, seconds: float) -> None:
    """Make every replica report not ready, including those that start meanwhile; they still answer requests."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with contextlib.suppress(Exception):  # a replica may just have ended
            handle.broadcast("drain").results(timeout_s=left)
        time.sleep(min(left, 0.5))


class _Stop(BaseException):
    """Raised by SIGTERM and Ctrl-C."""


class _Signals:
    """A context in which SIGTERM and SIGINT raise _Stop, also while Ray waits."""

    interrupted = False
    _signals = signal.SIGTERM, signal.SIGINT

    def __enter__(self) -> "_Signals":
        self._before = [(number, signal.getsignal(number)) for number in self._signals]
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def install(self) -> None:
        for number in self._signals:
            signal.signal(number, self._stop)

    def ignore(self) -> None:
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        self.interrupted |= number == signal.SIGINT
        raise _Stop
