"""The service on Ray Serve: several replicas of the same application, with Ray's own autoscaling."""

import asyncio
import contextlib
import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.metrics import Gauge
from starlette.applications import Starlette

from robustcls.core.config import resolve
from robustcls.core.errors import InputError
from robustcls.serving.app import application
from robustcls.serving.config import ServeConfig
from robustcls.serving.metrics import Metrics
from robustcls.serving.server import START
from robustcls.serving.service import Service

NAME = "Service"  # name of the deployment in configurations of `serve deploy`
PUBLISH = 5.0  # seconds between two copies of the metrics
MARGIN = 5.0  # seconds in addition to the longest request


def build(args: Mapping[str, Any]) -> serve.Application:
    """Return the Ray Serve application, for `import_path: robustcls.serving.ray_app:build`.

    Args:
        args: `models`, a list of `DIR` or `NAME=DIR`; `autoscaling`, fields of Ray's AutoscalingConfig that override the
            defaults; and the options of `robustcls serve` by name, such as `batch: 16`.

    Raises:
        InputError: if an argument is unknown or wrong, or there is no model.
    """
    options = dict(args)
    models = options.pop("models", [])
    scaling = options.pop("autoscaling", {})
    if not models or isinstance(models, str):
        raise InputError("`models` lists no artefact: give DIR or NAME=DIR for each")
    config = resolve(ServeConfig, {"engine": "ray"}, options)
    config = dataclasses.replace(config, threads=config.threads or 1)

    def make() -> Starlette:
        return replica(models, config)

    deployment = serve.deployment(
        serve.ingress(make)(_Replica),
        name=NAME,
        max_ongoing_requests=config.replica_requests * len(models),
        max_queued_requests=config.replica_requests * len(models),
        graceful_shutdown_timeout_s=math.ceil(config.timeout) + MARGIN,
        ray_actor_options={"num_cpus": config.threads * len(models)},
        **_replicas(config, scaling),
    )
    return deployment.bind()


def _replicas(config: ServeConfig, scaling: Mapping[str, Any]) -> dict[str, Any]:
    least, most = config.replica_range
    if least == most:
        return {"num_replicas": least}
    usual = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": max(1, config.batch // 2)}
    return {"autoscaling_config": {**usual, **scaling}}


class _Replica:
    """One replica of the service. Ray replaces a replica whose health check fails."""

    app: Starlette  # set by serve.ingress

    def check_health(self) -> None:
        """Fail if a worker process cannot be started. The service itself replaces a worker process that ended."""
        broken = [queue.broken for queue in self.app.state.service.queues if queue.broken]
        if broken:
            raise RuntimeError("; ".join(broken))

    def drain(self) -> None:
        """Report not ready from now on, so that load balancers use other replicas; requests are still answered."""
        self.app.state.service.draining = True


def replica(models: list[str], config: ServeConfig) -> Starlette:
    """Return the application of one replica; its start waits until the models are ready."""
    service = Service.of(models, config, logging.getLogger("ray.serve").warning)
    app = application(service)
    app.state.service = service
    started = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette):
        async with started(app):
            await service.until_ready(START)
            publishing = asyncio.create_task(_publish(service.metrics))
            try:
                yield
            finally:
                publishing.cancel()

    app.router.lifespan_context = lifespan
    return app


async def _publish(metrics: Metrics) -> None:
    """Copy the metrics to Ray's metrics, because a scrape through Ray's proxy does not reach every replica.

    All metrics become gauges, because Ray's counters and histograms cannot be set to a value. Names and labels are kept, so
    that rate() and histogram_quantile() work.
    """
    gauges: dict[str, Gauge] = {}
    while True:
        for family in metrics.registry.collect():
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                if sample.name not in gauges:
                    gauges[sample.name] = Gauge(sample.name, family.documentation, tuple(sample.labels))
                gauges[sample.name].set(sample.value, dict(sample.labels))
        await asyncio.sleep(PUBLISH)
