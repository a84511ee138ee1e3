"""The Prometheus metrics of a service. Label values are models, versions, classes and fixed words; none grow with traffic."""

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
    """The metrics of one service, in their own registry."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.request_seconds = Histogram(
            "http_server_request_duration_seconds", "Time from the headers of a request to its answer.",
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
            "Time to decode the images of a batch.",
            MODEL,
            buckets=SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "robustcls_inference_seconds",
            "Inference time of a batch.",
            MODEL,
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "robustcls_batch_images", "Images computed together.", MODEL, buckets=SIZES, registry=registry
        )
        self.queued = Gauge("robustcls_queue_requests", "Requests waiting for the model.", MODEL, registry=registry)
        self.capacity = Gauge(
            "robustcls_queue_capacity_requests",
            "Largest number of requests waiting for the model.",
            MODEL,
            registry=registry,
        )
        self.inflight = Gauge("robustcls_inflight_requests", "Requests being answered.", registry=registry)
        self.rejected = Counter(
            "robustcls_rejected_total",
            f"Refused requests by reason: {', '.join(REASONS)}.",
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
            "Kolmogorov-Smirnov distance between a class's probabilities in the last full window and the reference.",
            (*MODEL, "output"), registry=registry,
        )  # fmt: skip
        self.drift_threshold = Gauge(
            "robustcls_drift_threshold",
            "Distance above which a window counts as drifted.",
            MODEL,
            registry=registry,
        )
        self.drift_window = Gauge("robustcls_drift_window_images", "Images in a window.", MODEL, registry=registry)
        self.drift_windows = Counter(
            "robustcls_drift_windows_total", "Full windows by whether they had drifted.", (*MODEL, "drifted"),
            registry=registry,
        )  # fmt: skip
        self.restarts = Counter(
            "robustcls_worker_restarts_total",
            "Worker processes that ended and were replaced.",
            MODEL,
            registry=registry,
        )
        self.ready = Gauge("robustcls_ready", "1 if the service accepts requests, else 0.", registry=registry)
        self.reference = Gauge(
            "robustcls_reference_logit_difference",
            "Largest difference between the logits of the reference images on this machine and those at export.",
            MODEL, registry=registry,
        )  # fmt: skip
        self.info = Gauge("robustcls_model_info", "Always 1.", (*MODEL, "sha256", "quantization"), registry=registry)
        self.evaluated = Gauge(
            "robustcls_model_evaluated", "1 if the artefact contains an evaluation of the served file, else 0.", MODEL,
            registry=registry,
        )  # fmt: skip
        which = (*MODEL, "norm", "eps")
        self.robust = Gauge(
            "robustcls_model_robust_accuracy_ratio",
            "Robust accuracy of the served file (an empirical upper bound), from its evaluation.", which, registry=registry,
        )  # fmt: skip
        self.robust_lower = Gauge(
            "robustcls_model_robust_accuracy_lower_ratio",
            "Lower end of the 95% interval of robust accuracy.",
            which,
            registry=registry,
        )
        self.robust_upper = Gauge(
            "robustcls_model_robust_accuracy_upper_ratio",
            "Upper end of the 95% interval of robust accuracy.",
            which,
            registry=registry,
        )
        for reason in REASONS:
            self.rejected.labels(reason)

    def add_model(self, model: "ServedModel", queue: int) -> None:
        """Create the time series of a model with their initial values."""
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
