"""The service that is watched: where it answers, what it serves, and what is expected of it."""

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
    """What the rules are made of.

    job: its name in Prometheus. logit_bound: largest difference of a reference logit. speed: how many times shorter all
    durations are than said, for tests against the clock.
    """

    name: str
    sha256: str
    logit_bound: float
    options: MonitorConfig = field(default_factory=MonitorConfig)
    job: str = "robustcls"
    speed: float = 1.0

    @classmethod
    def of(cls, model: ServedModel, options: MonitorConfig) -> "Target":
        """For an artefact. Raises InputError where its reference cannot be read."""
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
        """The largest bound of the histogram that is not above the latency asked for: what can be counted."""
        latency = self.options.latency
        bounds = [bound for bound in SECONDS if bound <= latency * (1 + 1e-9)]
        if not bounds or not latency < float("inf"):
            raise InputError(
                f"`latency={latency:g}` cannot be counted: give seconds from {SECONDS[0]} to {SECONDS[-1]:g}"
            )
        return bounds[-1]

    def span(self, duration: str) -> str:
        """A duration such as `5m` as Prometheus writes it, shortened by `speed`."""
        if self.speed == 1:
            return duration
        unit = duration.lstrip("0123456789")
        milliseconds = round(int(duration.removesuffix(unit)) * UNITS[unit] * 1000 / self.speed)
        return f"{max(1, milliseconds)}ms"

    def of_job(self, metric: str, *conditions: str) -> str:
        """A selector of the service's series."""
        return select(metric, {"job": self.job}, *conditions)

    def of_model(self, metric: str, *conditions: str) -> str:
        """A selector of the model's series."""
        return select(metric, {"job": self.job, "model": self.name}, *conditions)

    def requests(self, part: str = "count", *conditions: str) -> str:
        """A selector of the requests for a model's answer, the only ones that are posted: no probe, no scrape."""
        return self.of_job(f"{REQUESTS}_{part}", 'http_request_method="POST"', *conditions)


def select(metric: str, labels: Mapping[str, str], *conditions: str) -> str:
    """`metric{name="value",...}`; a value may hold any letter."""
    parts = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items()]
    return f"{metric}{{{','.join([*parts, *conditions])}}}"
