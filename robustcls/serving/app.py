"""The service as an ASGI application: its routes, and a metric of the response times."""

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable

import pydantic_core
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from robustcls import __version__
from robustcls.serving import protocol
from robustcls.serving.queue import Queue
from robustcls.serving.refused import Refused
from robustcls.serving.service import BODIES, Service

Endpoint = Callable[[Request], Awaitable[Response]]
GONE = 499  # status recorded for a client that disconnected before the answer; it is never sent
NAME = "/v2/models/{name}"
MODEL = (NAME, NAME + "/versions/{version}")


def application(service: Service) -> Starlette:
    """Return the application of a service; the service starts and stops with the application."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        service.start()
        try:
            yield
        finally:
            await service.stop()

    views = _Views(service)
    routes = [
        *((path + "/infer", "POST", views.infer) for path in MODEL),
        ("/v2", "GET", views.server),
        ("/v2/health/live", "GET", views.live),
        ("/v2/health/ready", "GET", views.ready),
        ("/metrics", "GET", views.metrics),
        *((path, "GET", views.model) for path in MODEL),
        *((path + "/ready", "GET", views.model_ready) for path in MODEL),
    ]
    app = Starlette(
        routes=[Route(path, _timed(service, path, view), methods=[method]) for path, method, view in routes],
        exception_handlers={HTTPException: _no_route},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def infer_routes(service: Service) -> dict[bytes, tuple[Queue, str]]:
    """Return the queue and the route of each path that accepts images."""
    found = {}
    for name, versions in service.models.items():
        found[f"/v2/models/{name}/infer".encode()] = service.find(name, None), NAME + "/infer"
        for version, queue in versions.items():
            found[f"/v2/models/{name}/versions/{version}/infer".encode()] = queue, MODEL[1] + "/infer"
    return found


class _Views:
    """The endpoints, one method for each route."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def server(self, request: Request) -> Response:
        return _json(protocol.server_metadata(__version__))

    async def live(self, request: Request) -> Response:
        if self.service.fault:
            return _json({"live": False, "reasons": [self.service.fault]}, 503)
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        if self.service.ready:
            return _json({"ready": True})
        return _json({"ready": False, "reasons": self.service.unready()}, 503)

    async def metrics(self, request: Request) -> Response:
        return Response(generate_latest(self.service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def model(self, request: Request) -> Response:
        queue = self._queue(request)
        return _json(protocol.model_metadata(queue.model, list(self.service.models[queue.model.name])))

    async def model_ready(self, request: Request) -> Response:
        ready = self._queue(request).ready and not self.service.draining
        return _json({"name": request.path_params["name"], "ready": ready}, 200 if ready else 503)

    async def infer(self, request: Request) -> Response:
        config, metrics = self.service.config, self.service.metrics
        deadline = asyncio.get_running_loop().time() + config.timeout
        body = _Body(self.service)
        with metrics.inflight.track_inprogress():
            try:
                queue = self._queue(request)
                queue.check_room(deadline)
                content = await body.read(request, deadline)
                shape = queue.model.manifest.input_size
                wanted = protocol.parse(content, request.headers.get(protocol.LENGTH), shape)
                answer = await self.service.infer(queue, wanted, deadline)
            finally:
                body.release()
        return Response(answer.body, headers=answer.headers)

    def _queue(self, request: Request) -> Queue:
        return self.service.find(request.path_params["name"], request.path_params.get("version"))


class _Body:
    """The body of a request, within the limits for one body and for all bodies together."""

    def __init__(self, service: Service) -> None:
        self.service, self.size = service, 0

    async def read(self, request: Request, deadline: float) -> bytes:
        """Return the whole body. Raises Refused if it is too large, encoded or late, or if there are too many large bodies."""
        most = self.service.config.body_bytes
        encoding = request.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise Refused("body", f"content-encoding {encoding:.20} is not supported: send the body as it is", 415)
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length[:15]) > most:
            raise Refused("size", f"the body has {length:.15} bytes, {most} are allowed", 413)
        parts = []
        try:
            async with asyncio.timeout_at(deadline):
                async for part in request.stream():
                    parts.append(part)
                    self.size += len(part)
                    self.service.held += len(part)
                    if self.size > most:
                        raise Refused("size", f"the body has more than the {most} bytes that are allowed", 413)
                    if self.service.held > BODIES * most:
                        raise Refused("busy", "too many large requests at a time: try again", 503, retry_after=1)
        except TimeoutError:
            limit = self.service.config.timeout
            raise Refused("body", f"the body did not arrive within {limit:g} s", 408) from None
        return b"".join(parts)

    def release(self) -> None:
        self.service.held -= self.size


def _timed(service: Service, route: str, view: Endpoint) -> Endpoint:
    """Wrap an endpoint: return its errors as JSON, record its duration, and close connections while the service drains."""
    duration = service.metrics.request_seconds

    async def timed(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            response = await view(request)
        except Refused as refused:
            service.metrics.rejected.labels(refused.reason).inc()
            body, headers = refused.answer()
            response = Response(body, refused.status, headers)
        except ClientDisconnect:
            response = Response(status_code=GONE)
        except Exception:  # a bug in robustcls: reported to the operator, never to the client
            service.say(f"fault: {traceback.format_exc()}")
            response = _json({"error": "internal error"}, 500)
        duration.labels(request.method, route, str(response.status_code)).observe(loop.time() - began)
        if service.draining:
            response.headers["connection"] = "close"
        return response

    return timed


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"no such path: {request.url.path:.100}: see /v2" if error.status_code == 404 else error.detail
    return Response(
        pydantic_core.to_json({"error": text}), error.status_code, headers=error.headers, media_type=protocol.JSON
    )


def _json(value: object, status: int = 200) -> Response:
    return Response(pydantic_core.to_json(value), status, media_type=protocol.JSON)
