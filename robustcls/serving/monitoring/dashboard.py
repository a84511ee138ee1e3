"""A Grafana dashboard that uses only built-in panel types."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from robustcls.serving.monitoring.budget import errors_ratio
from robustcls.serving.monitoring.rules import MODEL
from robustcls.serving.monitoring.target import Target

WIDTH, HEIGHT = 24, 7  # width of the grid, height of a panel
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    """One panel of the dashboard."""

    title: str
    unit: str
    queries: list[tuple[str, str]]  # expression and legend
    kind: str = "timeseries"  # or stat
    width: int = 8
    text: str = ""


def dashboard(target: Target) -> dict[str, Any]:
    """Return the content of dashboard.json."""
    panels, x, y = [], 0, 0
    for number, panel in enumerate(_panels(target), 1):
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        panels.append(_panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": HEIGHT}))
        x += panel.width
    variable = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "title": f"robustcls: {target.name}",
        "uid": f"robustcls-{target.sha256[:12]}",
        "tags": ["robustcls"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": panels,
    }


def queries(found: dict[str, Any]) -> list[str]:
    """Return every expression of a dashboard."""
    return [one["expr"] for panel in found["panels"] for one in panel["targets"]]


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "gridPos": place,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}} if panel.kind == "stat" else {},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": DATASOURCE, "expr": expr, "legendFormat": legend}
            for place, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _panels(t: Target) -> Iterator[Panel]:
    over = f"[{t.span('5m')}]"
    robust = t.of_model
    yield Panel("Ready", "none", [(t.of_job("robustcls_ready"), "{{instance}}")], "stat", 4)
    yield Panel(
        "Robust accuracy of the served file", "percentunit",
        [
            (robust("robustcls_model_robust_accuracy_ratio"), "{{norm}} {{eps}}"),
            (robust("robustcls_model_robust_accuracy_lower_ratio"), "lower end"),
            (robust("robustcls_model_robust_accuracy_upper_ratio"), "upper end"),
        ],
        "stat", 8, "An empirical upper bound with its 95% interval, from the evaluation of the served file.",
    )  # fmt: skip
    yield Panel("Served", "none", [(t.of_model("robustcls_model_info"), "{{version}} {{quantization}}")], "stat", 6)
    yield Panel("Evaluated", "none", [(t.of_model("robustcls_model_evaluated"), "{{instance}}")], "stat", 6)
    by_status = f"sum by (http_response_status_code) (rate({t.requests()}{over}))"
    yield Panel("Requests", "reqps", [(by_status, "{{http_response_status_code}}")])
    allowed = f"vector({1 - t.options.slo:.6g})"
    yield Panel("Errors", "percentunit", [(errors_ratio(t, "5m"), "failed"), (allowed, "objective")])
    yield Panel("Latency", "s", list(_quantiles(t.requests("bucket"), over)))
    stages = [
        (f"sum(rate({t.of_model(f'robustcls_{name}_seconds_sum')}{over})) / "
         f"sum(rate({t.of_model(f'robustcls_{name}_seconds_count')}{over}))", name)
        for name in ("queue", "decode", "inference")
    ]  # fmt: skip
    yield Panel(
        "Where the time goes",
        "s",
        stages,
        text="Mean times: per request for the queue, per batch for decoding and inference.",
    )
    queue = [
        (t.of_model("robustcls_queue_requests"), "{{instance}}"),
        (t.of_model("robustcls_queue_capacity_requests"), "capacity"),
        (t.of_job("robustcls_inflight_requests"), "in flight"),
    ]
    yield Panel("Queue", "none", queue)
    images = f"sum(rate({t.of_model('robustcls_batch_images_sum')}{over}))"
    batches = f"sum(rate({t.of_model('robustcls_batch_images_count')}{over}))"
    yield Panel("Images per batch", "none", [(f"{images} / {batches}", "mean")])
    refused = f"sum by (reason) (rate({t.of_job('robustcls_rejected_total')}{over}))"
    yield Panel("Refused", "reqps", [(refused, "{{reason}}")])
    yield Panel(
        "Drift", "none",
        [
            (f"max by (output) ({t.of_model('robustcls_drift_statistic')})", "{{output}}"),
            (f"max({t.of_model('robustcls_drift_threshold')})", "threshold"),
        ],
        text="Kolmogorov-Smirnov distance between each class's probabilities in the last window and at export.",
    )  # fmt: skip
    windows = f"sum by (drifted) (increase({t.of_model('robustcls_drift_windows_total')}[{t.span('1h')}]))"
    yield Panel("Windows per hour", "none", [(windows, "drifted: {{drifted}}")])
    yield Panel("Share of each class", "percentunit", [(t.of_model("model:robustcls_label_share:now"), "{{label}}")])
    confidence = [
        (t.of_model(f"model:robustcls_confidence:mean_{name}"), word)
        for name, word in (("now", "last half hour"), ("before", "day before"))
    ]
    yield Panel("Confidence", "percentunit", confidence)
    difference = [
        (t.of_model("robustcls_reference_logit_difference"), "{{instance}}"),
        (f"vector({t.logit_bound:.6g})", "bound"),
    ]
    yield Panel("Reference logits", "none", difference, text="Largest difference from the logits at export.")
    restarts = f"sum by ({MODEL}) (increase({t.of_model('robustcls_worker_restarts_total')}[{t.span('1h')}]))"
    yield Panel("Worker restarts per hour", "none", [(restarts, "{{instance}}")])


def _quantiles(buckets: str, over: str) -> Iterator[tuple[str, str]]:
    for quantile, word in ((0.5, "p50"), (0.99, "p99")):
        yield f"histogram_quantile({quantile}, sum by (le) (rate({buckets}{over})))", word
