"""Recording and alerting rules of Prometheus for one service."""

from collections.abc import Iterator
from typing import Any

from robustcls.serving.monitoring.alert import PAGE, TICKET, Alert
from robustcls.serving.monitoring.budget import budget_alerts, budget_records
from robustcls.serving.monitoring.target import OF_MODEL, Target

FULL = 0.8  # share of the queue
REFUSED, SURGE, LEAST_REFUSED = 0.05, 3, 20  # share of the requests; times the hour before; requests
JUMP, LEAST_IMAGES = 0.1, 400  # of a share; at 400 images it is four standard errors or more
DRIFT_SPANS = ("5m", "1h", "6h", "1d")  # windows are counted in images: how long one lasts is the traffic's
MODEL = ", ".join(OF_MODEL)


def rules(target: Target) -> dict[str, Any]:
    """The content of rules.yml."""
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
        "{{ $labels.instance }} of job {{ $labels.job }} cannot be scraped, or is not in Prometheus' configuration.",
    )  # fmt: skip
    yield Alert(
        "RobustclsNotReady", PAGE, "1m", f"{t.of_job('robustcls_ready')} == 0", "The service is not ready",
        "{{ $labels.instance }} answers, but takes no requests: a worker is gone, it drains, or a model did not load.",
    )  # fmt: skip
    queued, room = t.of_job("robustcls_queue_requests"), t.of_job("robustcls_queue_capacity_requests")
    yield Alert(
        "RobustclsQueueNearlyFull", PAGE, "1m", f"avg_over_time({queued}[{t.span('2m')}]) / {room} > {FULL}",
        "The queue is nearly full",
        "{{ $value | humanizePercentage }} of the queue of {{ $labels.model }} on {{ $labels.instance }} is taken: "
        "soon requests are refused. Add replicas, or send less.",
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
        "{{ $value | humanizePercentage }} of the requests to {{ $labels.job }} are refused for {{ $labels.reason }}, far "
        "more than in the hour before.",
    )  # fmt: skip
    restarts = t.of_job("robustcls_worker_restarts_total")
    yield Alert(
        "RobustclsWorkerRestarts", PAGE, "", f"increase({restarts}[{t.span('15m')}]) > 1.5",
        "Workers end again and again",
        "The process that computes {{ $labels.model }} on {{ $labels.instance }} ended twice or more within 15 minutes.",
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
        "A service answers, but says nothing of {{ $labels.model }}: it serves something else, or under another name.",
    )  # fmt: skip
    other = t.of_model("robustcls_model_info", f'sha256!="{t.sha256}"')
    yield Alert(
        "RobustclsOtherFile", TICKET, "5m", f"{other} == 1", "Another file is served",
        f"{{{{ $labels.model }}}} on {{{{ $labels.instance }}}} is not the file {t.sha256[:12]} that these rules and its "
        "evaluation are about: write them anew.",
    )  # fmt: skip
    yield Alert(
        "RobustclsNotEvaluated", TICKET, "5m", f"{t.of_model('robustcls_model_evaluated')} == 0",
        "No evaluation of this very file",
        "Nobody attacked the file of {{ $labels.model }} on {{ $labels.instance }}, or its evaluation is of another one: "
        "run robustcls attack on the artefact.",
    )  # fmt: skip
    differs = t.of_model("robustcls_reference_logit_difference")
    yield Alert(
        "RobustclsReferenceDifference", PAGE, "", f"{differs} unless {differs} <= {t.logit_bound:.6g}",
        "The file computes something else here",
        f"Logits of the reference images on {{{{ $labels.instance }}}} differ by {{{{ $value }}}}, more than "
        f"{t.logit_bound:.3g}: what was evaluated is not what answers.",
    )  # fmt: skip
    yield Alert(
        "RobustclsDrift", TICKET, "", _drift(t), "Inputs have drifted",
        "The outputs of {{ $labels.model }} on {{ $labels.instance }} are distributed otherwise than at export in two "
        "windows running: the largest Kolmogorov-Smirnov distance of a class is {{ $value | humanize }}.",
    )  # fmt: skip
    images = f"sum by (job, model, version) (increase({t.of_model('robustcls_predictions_total')}[{t.span('30m')}]))"
    enough = f"on (job, model, version) {images} >= {LEAST_IMAGES}"
    now, before = (t.of_model(f"model:robustcls_label_share:{name}") for name in ("now", "before"))
    yield Alert(
        "RobustclsLabelShare", TICKET, "5m", f"abs({now} - {before}) > {JUMP} and {enough}",
        "A class is predicted more or less often",
        "The share of {{ $labels.label }} among the predictions of {{ $labels.model }} moved by "
        "{{ $value | humanizePercentage }} from that of the day before.",
    )  # fmt: skip
    now, before = (t.of_model(f"model:robustcls_confidence:mean_{name}") for name in ("now", "before"))
    yield Alert(
        "RobustclsConfidence", TICKET, "5m", f"{before} - {now} > {JUMP} and {enough}", "Confidence has fallen",
        "The mean probability of the predicted class of {{ $labels.model }} fell by {{ $value | humanize }} from that of the "
        "day before.",
    )  # fmt: skip


def _drift(t: Target) -> str:
    """The last window lies above the threshold; and within some span at least two windows ended, four in five of which
    had drifted, so that two running had. A counter's increase is extrapolated: 1.5 separates one from two.
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
