"""The monitored service: its address, the model that it must serve, and its objectives."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy

from robustcls.core.errors import InputError
from robustcls.results.artefact import REFERENCE
from robustcls.runtime.session import DAMAGED
from robustcls.serving.metrics import SECONDS
from robustcls.serving.model import ServedModel
from robustcls.serving.monitoring.config import MonitorConfig

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}
REQUESTS = "http_server_request_duration_seconds"
OF_MODEL = ("job", "instance", "model", "version")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The model and the objectives for which rules and dashboard are written.

    job: the name of the scrape job in Prometheus. logit_bound: largest allowed difference of a reference logit. speed: factor
    by which all durations are shortened, for tests in real time.
    """

    name: str
    sha256: str
    logit_bound: float
    options: MonitorConfig = field(default_factory=MonitorConfig)
    job: str = "robustcls"
    speed: float = 1.0

    @classmethod
    def of(cls, model: ServedModel, options: MonitorConfig) -> "Target":
        """Return the target for an artefact. Raises InputError if its reference cannot be read."""
        path = model.folder / REFERENCE
        try:
            with numpy.load(path, allow_pickle=False) as reference:
                largest = float(abs(reference["logits"]).max())
        except DAMAGED:
            raise InputError(f"cannot read {path}: export the model again") from None
        bound = model.manifest.reference_tolerance * largest
        return cls(name=model.name, sha256=model.manifest.file.sha256, logit_bound=bound, options=options)

    @property
    def latency_bound(self) -> float:
        """The largest bucket of the latency histogram that is not above the latency objective, because only buckets can be
        counted."""
        latency = self.options.latency
        bounds = [bound for bound in SECONDS if bound <= latency * (1 + 1e-9)]
        if not bounds or not latency < float("inf"):
            raise InputError(
                f"`latency={latency:g}` cannot be measured: give seconds from {SECONDS[0]} to {SECONDS[-1]:g}"
            )
        return bounds[-1]

    def span(self, duration: str) -> str:
        """A duration such as `5m` in the format of Prometheus, shortened by `speed`."""
        if self.speed == 1:
            return duration
        unit = duration.lstrip("0123456789")
        milliseconds = round(int(duration.removesuffix(unit)) * UNITS[unit] * 1000 / self.speed)
        return f"{max(1, milliseconds)}ms"

    def of_job(self, metric: str, *conditions: str) -> str:
        """A selector for the service's time series."""
        return select(metric, {"job": self.job}, *conditions)

    def of_model(self, metric: str, *conditions: str) -> str:
        """A selector for the model's time series."""
        return select(metric, {"job": self.job, "model": self.name}, *conditions)

    def requests(self, part: str = "count", *conditions: str) -> str:
        """A selector for inference requests. Only these use POST; probes and scrapes do not."""
        return self.of_job(f"{REQUESTS}_{part}", 'http_request_method="POST"', *conditions)


def select(metric: str, labels: Mapping[str, str], *conditions: str) -> str:
    """Return `metric{name="value",...}`; values are escaped and may contain any character."""
    parts = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()]
    return f"{metric}{{{','.join([*parts, *conditions])}}}"
