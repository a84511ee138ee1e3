"""The state of a service and of each of its models, from one reading."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from robustcls.serving.monitoring.reading import Histogram, Reading
from robustcls.serving.monitoring.target import REQUESTS


@dataclass(frozen=True)
class Robust:
    """Robust accuracy from the evaluation of the served file, and the ends of its 95% interval; NaN if they are missing."""

    norm: str
    eps: str
    accuracy: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Model:
    """The state of one version of a model."""

    name: str
    version: str
    sha256: str
    quantization: str
    evaluated: bool
    robust: tuple[Robust, ...]
    reference: float | None  # largest difference of a reference logit
    queued: float | None
    capacity: float | None
    batch: Histogram
    inference: Histogram
    predictions: dict[str, float]  # images by label
    confidence: Histogram
    drift: dict[str, float]  # statistic by output, of the last full window
    threshold: float | None
    windows: dict[str, float]  # by whether they had drifted: true, false
    restarts: float | None

    @property
    def images(self) -> float:
        return sum(self.predictions.values())

    @property
    def drifted(self) -> list[str]:
        """The outputs above the drift threshold, the largest first."""
        above = [
            name for name, value in self.drift.items() if self.threshold is not None and not value <= self.threshold
        ]
        return sorted(above, key=lambda name: -self.drift[name])


@dataclass(frozen=True)
class State:
    """The state of a service. Requests are inference requests only."""

    ready: bool  # by /v2/health/ready and by the metric
    reasons: tuple[str, ...]  # why it is not ready
    requests: Histogram  # seconds
    failed: float  # answers with status 500 or higher
    rejected: dict[str, float]  # refused requests by reason
    inflight: float
    models: list[Model]

    @classmethod
    def of(cls, now: Reading, counted: Reading | None = None) -> "State":
        """Return the state of a reading. counted: the reading with counters relative to an earlier one; without it, counters
        start with the service."""
        counted = counted or now
        by_status = counted.by(f"{REQUESTS}_count", "http_response_status_code", http_request_method="POST")
        return cls(
            ready=now.ready and now.value("robustcls_ready") == 1,
            reasons=now.reasons,
            requests=counted.histogram(REQUESTS, http_request_method="POST"),
            failed=sum(number for status, number in by_status.items() if status.startswith("5")),
            rejected={
                reason: number for reason, number in counted.by("robustcls_rejected_total", "reason").items() if number
            },
            inflight=now.value("robustcls_inflight_requests") or 0.0,
            models=list(_models(now, counted)),
        )

    @property
    def error_share(self) -> float | None:
        return self.failed / self.requests.count if self.requests.count else None

    @property
    def rejected_share(self) -> float | None:
        return sum(self.rejected.values()) / self.requests.count if self.requests.count else None


def _models(now: Reading, counted: Reading) -> Iterator[Model]:
    for info, _ in now.values("robustcls_model_info"):
        of = {"model": info.get("model", ""), "version": info.get("version", "")}
        yield Model(
            name=of["model"],
            version=of["version"],
            sha256=info.get("sha256", ""),
            quantization=info.get("quantization", ""),
            evaluated=now.value("robustcls_model_evaluated", **of) == 1,
            robust=tuple(_robust(now, of)),
            reference=now.value("robustcls_reference_logit_difference", **of),
            queued=now.value("robustcls_queue_requests", **of),
            capacity=now.value("robustcls_queue_capacity_requests", **of),
            batch=counted.histogram("robustcls_batch_images", **of),
            inference=counted.histogram("robustcls_inference_seconds", **of),
            predictions=counted.by("robustcls_predictions_total", "label", **of),
            confidence=counted.histogram("robustcls_confidence_ratio", **of),
            drift=now.by("robustcls_drift_statistic", "output", **of),
            threshold=now.value("robustcls_drift_threshold", **of),
            windows=now.by("robustcls_drift_windows_total", "drifted", **of),
            restarts=now.value("robustcls_worker_restarts_total", **of),
        )


def _robust(now: Reading, of: dict[str, str]) -> Iterator[Robust]:
    for labels, accuracy in now.values("robustcls_model_robust_accuracy_ratio", **of):
        ends = (now.value(f"robustcls_model_robust_accuracy_{end}_ratio", **labels) for end in ("lower", "upper"))
        lower, upper = (math.nan if end is None else end for end in ends)
        yield Robust(labels.get("norm", ""), labels.get("eps", ""), accuracy, lower, upper)
