"""The recording and alerting rules of Prometheus for one service."""

from collections.abc import Iterator
from typing import Any

from robustcls.serving.monitoring.alert import PAGE, TICKET, Alert
from robustcls.serving.monitoring.budget import budget_alerts, budget_records
from robustcls.serving.monitoring.target import OF_MODEL, Target

FULL = 0.8  # share of the queue above which it counts as nearly full
REFUSED, SURGE, LEAST_REFUSED = (
    0.05,
    3,
    20,
)  # share of refused requests; factor over the hour before; number of requests
JUMP, LEAST_IMAGES = (
    0.1,
    400,
)  # change of a share or of confidence; with 400 images, a share's is at least 4 standard errors
DRIFT_SPANS = ("5m", "1h", "6h", "1d")  # several, because the duration of a window of images depends on the traffic
MODEL = ", ".join(OF_MODEL)


def rules(target: Target) -> dict[str, Any]:
    """Return the content of rules.yml."""
    groups = {
        "budget": [*budget_records(target), *(one.rule(target) for one in budget_alerts(target))],
        "service": [one.rule(target) for one in _service(target)],
        "model": [*_model_records(target), *(one.rule(target) for one in _model(target))],
    }
    return {"groups": [{"name": f"{target.job}-{name}", "rules": found} for name, found in groups.items()]}


def _service(t: Target) -> Iterator[Alert]:
    up = t.of_job("up")
    yield Alert(
        "RobustclsAbsent", PAGE, "2m", f"{up} == 0 or absent({up})", "The service does not answer",
        "{{ $labels.instance }} of job {{ $labels.job }} cannot be scraped, or is missing in the configuration of Prometheus.",
    )  # fmt: skip
    yield Alert(
        "RobustclsNotReady", PAGE, "1m", f"{t.of_job('robustcls_ready')} == 0", "The service is not ready",
        "{{ $labels.instance }} answers, but accepts no requests: a worker ended, it is draining, or a model did not load.",
    )  # fmt: skip
    queued, room = t.of_job("robustcls_queue_requests"), t.of_job("robustcls_queue_capacity_requests")
    yield Alert(
        "RobustclsQueueNearlyFull", PAGE, "1m", f"avg_over_time({queued}[{t.span('2m')}]) / {room} > {FULL}",
        "The queue is nearly full",
        "{{ $value | humanizePercentage }} of the queue of {{ $labels.model }} on {{ $labels.instance }} is used: "
        "requests will soon be refused. Add replicas, or send fewer requests.",
    )  # fmt: skip
    refused, span, before = t.of_job("robustcls_rejected_total"), t.span("5m"), t.span("1h")

    def share(over: str) -> str:
        by_reason, every = (f"rate({one}{over})" for one in (refused, t.requests()))
        return f"sum by (job, reason) ({by_reason}) / on (job) group_left () sum by (job) ({every})"

    now, earlier = share(f"[{span}]"), share(f"[{before}] offset {span}")
    yield Alert(
        "RobustclsRejections", TICKET, "2m",
        f"({now} > {REFUSED} unless {now} <= {SURGE} * ({earlier})) "
        f"and sum by (job, reason) (increase({refused}[{span}])) >= {LEAST_REFUSED}",
        "Many requests are refused",
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} are refused with reason "
        "{{ $labels.reason }}, far more than in the hour before.",
    )  # fmt: skip
    restarts = t.of_job("robustcls_worker_restarts_total")
    yield Alert(
        "RobustclsWorkerRestarts", PAGE, "", f"increase({restarts}[{t.span('15m')}]) > 1.5",
        "Workers keep restarting",
        "The worker process of {{ $labels.model }} on {{ $labels.instance }} ended at least twice within 15 minutes.",
    )  # fmt: skip


def _model_records(t: Target) -> Iterator[dict[str, str]]:
    for name, span, offset in (("now", "30m", ""), ("before", "1d", f" offset {t.span('30m')}")):
        over = f"[{t.span(span)}]{offset}"
        seen = f"sum by (job, model, version, label) (increase({t.of_model('robustcls_predictions_total')}{over}))"
        every = f"(sum by (job, model, version) (increase({t.of_model('robustcls_predictions_total')}{over})) > 0)"
        yield {
            "record": f"model:robustcls_label_share:{name}",
            "expr": f"{seen} / on (job, model, version) group_left () {every}",
        }
        total, count = (
            f"sum by (job, model, version) (rate({t.of_model(f'robustcls_confidence_ratio_{part}')}{over}))"
            for part in ("sum", "count")
        )
        yield {"record": f"model:robustcls_confidence:mean_{name}", "expr": f"{total} / ({count} > 0)"}


def _model(t: Target) -> Iterator[Alert]:
    info, scraped = t.of_model("robustcls_model_info"), f"on () (count({t.of_job('up')} == 1) > 0)"
    yield Alert(
        "RobustclsModelAbsent", PAGE, "2m", f"absent({info}) and {scraped}", "The model is not served",
        "A service answers, but has no metrics of {{ $labels.model }}: it serves another model, or under another name.",
    )  # fmt: skip
    other = t.of_model("robustcls_model_info", f'sha256!="{t.sha256}"')
    yield Alert(
        "RobustclsOtherFile", TICKET, "5m", f"{other} == 1", "Another file is served",
        f"{{{{ $labels.model }}}} on {{{{ $labels.instance }}}} is not the file {t.sha256[:12]} for which these rules were "
        "written: write the rules again for the new file.",
    )  # fmt: skip
    yield Alert(
        "RobustclsNotEvaluated", TICKET, "5m", f"{t.of_model('robustcls_model_evaluated')} == 0",
        "The served file has no evaluation",
        "The file of {{ $labels.model }} on {{ $labels.instance }} was never attacked, or its evaluation is of another file: "
        "run robustcls attack on the artefact.",
    )  # fmt: skip
    differs = t.of_model("robustcls_reference_logit_difference")
    yield Alert(
        "RobustclsReferenceDifference", PAGE, "", f"{differs} unless {differs} <= {t.logit_bound:.6g}",
        "The model computes other logits on this machine",
        f"Logits of the reference images on {{{{ $labels.instance }}}} differ by {{{{ $value }}}}, more than "
        f"{t.logit_bound:.3g}: the evaluation does not apply to these answers.",
    )  # fmt: skip
    yield Alert(
        "RobustclsDrift", TICKET, "", _drift(t), "Inputs have drifted",
        "The distribution of the outputs of {{ $labels.model }} on {{ $labels.instance }} differs from that at export in two "
        "consecutive windows: the largest Kolmogorov-Smirnov distance of a class is {{ $value | humanize }}.",
    )  # fmt: skip
    images = f"sum by (job, model, version) (increase({t.of_model('robustcls_predictions_total')}[{t.span('30m')}]))"
    enough = f"on (job, model, version) {images} >= {LEAST_IMAGES}"
    now, before = (t.of_model(f"model:robustcls_label_share:{name}") for name in ("now", "before"))
    yield Alert(
        "RobustclsLabelShare", TICKET, "5m", f"abs({now} - {before}) > {JUMP} and {enough}",
        "A class is predicted more or less often",
        "The share of {{ $labels.label }} among the predictions of {{ $labels.model }} changed by "
        "{{ $value | humanizePercentage }} compared with the day before.",
    )  # fmt: skip
    now, before = (t.of_model(f"model:robustcls_confidence:mean_{name}") for name in ("now", "before"))
    yield Alert(
        "RobustclsConfidence", TICKET, "5m", f"{before} - {now} > {JUMP} and {enough}", "Confidence has fallen",
        "The mean probability of the predicted class of {{ $labels.model }} fell by {{ $value | humanize }} compared with the "
        "day before.",
    )  # fmt: skip


def _drift(t: Target) -> str:
    """The expression of the drift alert: the last window is above the threshold, and within one of the spans at least two
    windows had drifted, and at least 80% of all windows, which means that two consecutive windows had.

    Prometheus extrapolates the increase of a counter, so the bound 1.5 separates one window from two.
    """
    every = t.of_model("robustcls_drift_windows_total")
    drifted = t.of_model("robustcls_drift_windows_total", 'drifted="true"')
    spans = []
    for span in map(t.span, DRIFT_SPANS):
        bad, all_of_them = (f"sum by ({MODEL}) (increase({one}[{span}]))" for one in (drifted, every))
        spans.append(f"({bad} > 1.5 and {bad} >= 0.8 * {all_of_them})")
    largest = f"max by ({MODEL}) ({t.of_model('robustcls_drift_statistic')})"
    threshold = f"max by ({MODEL}) ({t.of_model('robustcls_drift_threshold')})"
    return f"{largest} > {threshold} and ({' or '.join(spans)})"
