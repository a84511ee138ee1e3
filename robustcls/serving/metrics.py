"""What a service tells Prometheus. Labels are models, versions, classes and fixed words: none grows with traffic."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

if TYPE_CHECKING:
    from robustcls.serving.model import ServedModel

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
REASONS = ("body", "busy", "decoding", "deadline", "protocol", "shape", "size", "values")
MODEL = ("model", "version")


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "http_server_request_duration_seconds", "Time from a request's headers to its answer.",
            ("http_request_method", "http_route", "http_response_status_code"), buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.queue_seconds = Histogram(
            "robustcls_queue_seconds",
            "Time that a request waited for the model.",
            MODEL,
            buckets=SECONDS,
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "robustcls_decode_seconds",
            "Time that decoding a batch's images took.",
            MODEL,
            buckets=SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "robustcls_inference_seconds",
            "Time that the model took for a batch.",
            MODEL,
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "robustcls_batch_images", "Images computed together.", MODEL, buckets=SIZES, registry=registry
        )
        self.queued = Gauge("robustcls_queue_requests", "Requests that wait for the model.", MODEL, registry=registry)
        self.capacity = Gauge(
            "robustcls_queue_capacity_requests", "Requests that may wait for the model.", MODEL, registry=registry
        )
        self.inflight = Gauge("robustcls_inflight_requests", "Requests that are being answered.", registry=registry)
        self.rejected = Counter(
            "robustcls_rejected_total",
            f"Requests refused, by reason: {', '.join(REASONS)}.",
            ("reason",),
            registry=registry,
        )
        self.predictions = Counter(
            "robustcls_predictions_total", "Images by predicted class.", (*MODEL, "label"), registry=registry
        )
        self.confidence = Histogram(
            "robustcls_confidence_ratio",
            "Probability of the predicted class.",
            MODEL,
            buckets=SHARES,
            registry=registry,
        )
        self.drift = Gauge(
            "robustcls_drift_statistic",
            "Kolmogorov-Smirnov distance of a class's probabilities in the last full window from the reference's.",
            (*MODEL, "output"), registry=registry,
        )  # fmt: skip
        self.drift_threshold = Gauge(
            "robustcls_drift_threshold",
            "Distance above which a window is said to have drifted.",
            MODEL,
            registry=registry,
        )
        self.drift_window = Gauge("robustcls_drift_window_images", "Images in a window.", MODEL, registry=registry)
        self.drift_windows = Counter(
            "robustcls_drift_windows_total", "Full windows, by whether they had drifted.", (*MODEL, "drifted"),
            registry=registry,
        )  # fmt: skip
        self.restarts = Counter(
            "robustcls_worker_restarts_total",
            "Processes that computed, ended and were replaced.",
            MODEL,
            registry=registry,
        )
        self.ready = Gauge("robustcls_ready", "1 where the service takes requests.", registry=registry)
        self.reference = Gauge(
            "robustcls_reference_logit_difference",
            "Largest difference of the reference images' logits on this machine from those written at export.",
            MODEL, registry=registry,
        )  # fmt: skip
        self.info = Gauge("robustcls_model_info", "Always 1.", (*MODEL, "sha256", "quantization"), registry=registry)
        self.evaluated = Gauge(
            "robustcls_model_evaluated", "1 where the artefact holds an evaluation of this very file.", MODEL,
            registry=registry,
        )  # fmt: skip
        which = (*MODEL, "norm", "eps")
        self.robust = Gauge(
            "robustcls_model_robust_accuracy_ratio",
            "Robust accuracy of this very file, an empirical upper bound, by its evaluation.", which, registry=registry,
        )  # fmt: skip
        self.robust_lower = Gauge(
            "robustcls_model_robust_accuracy_lower_ratio", "Lower end of its 95% interval.", which, registry=registry
        )
        self.robust_upper = Gauge(
            "robustcls_model_robust_accuracy_upper_ratio", "Upper end of its 95% interval.", which, registry=registry
        )
        for reason in REASONS:
            self.rejected.labels(reason)

    def add_model(self, model: "ServedModel", queue: int) -> None:
        """The series of a model, at their first values."""
        name = model.name, model.version
        self.capacity.labels(*name).set(queue)
        self.queued.labels(*name).set(0)
        self.restarts.labels(*name)
        self.info.labels(*name, model.manifest.file.sha256, model.quantization).set(1)
        self.evaluated.labels(*name).set(model.evaluation is not None)
        for label in model.classes:
            self.predictions.labels(*name, label)
        if (found := model.evaluation) is not None:
            which = (*name, found.threat.norm, found.threat.eps_text + found.threat.limits)
            self.robust.labels(*which).set(found.robust.accuracy)
            self.robust_lower.labels(*which).set(found.robust.ci95[0])
            self.robust_upper.labels(*which).set(found.robust.ci95[1])
        if model.drift is not None:
            self.drift_threshold.labels(*name).set(model.drift.threshold)
            self.drift_window.labels(*name).set(model.drift.window)
            for state in ("true", "false"):
                self.drift_windows.labels(*name, state)
