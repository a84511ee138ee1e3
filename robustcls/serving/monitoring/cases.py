"""Tests of the alert rules for promtool: for each alert, services for which it fires, and similar services for which it must
not fire.

Each case is a healthy service with some series changed, and the complete set of alerts that must fire.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from robustcls.serving.monitoring.budget import BURNS
from robustcls.serving.monitoring.rules import LEAST_IMAGES
from robustcls.serving.monitoring.target import REQUESTS, Target, select

MINUTES = 100  # duration of a simulated service
SOON, LATER = 12, 55  # minutes at which the alerts are evaluated for conditions that are true from the start
ALL = MINUTES + 1  # samples
SHORT = {"5m": 7, "30m": 35, "6h": 365}  # minutes: a little more than the short windows
LONG = {"1h": 60, "6h": MINUTES, "3d": 800}  # minutes of each long window that are filled with data
VERSION, INSTANCE = "1", "127.0.0.1:8080"
Parts = tuple[float, int]  # a value or a growth per minute, and its duration in minutes


@dataclass(frozen=True)
class Case:
    """A simulated service, and the alerts that fire at a certain minute."""

    alert: str
    text: str
    changed: Mapping[str, str | None]  # series by name that differ from a healthy service; None: the series is missing
    fires: frozenset[str] = frozenset()
    minutes: int = MINUTES  # when the alerts are evaluated
    alone: bool = False  # check only this alert, not the others


def rule_tests(target: Target, file: str) -> dict[str, Any]:
    """Return the content of rules_test.yml, for `promtool test rules`."""
    return {"rule_files": [file], "evaluation_interval": "1m", "tests": [_test(target, one) for one in cases(target)]}


def cases(target: Target) -> list[Case]:
    """Return all cases; for each alert at least one in which it fires and one in which it does not."""
    return [*_budget(target), *_service(target), *_model(target)]


def _test(target: Target, case: Case) -> dict[str, Any]:
    series = {**others(target), **healthy(target), **case.changed}
    asked = {"alertstate": "firing", **({"alertname": case.alert} if case.alone else {})}
    verb = "fires" if case.alert in case.fires else "silent"
    return {
        "name": f"{case.alert} {verb}: {case.text}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items() if values is not None],
        "promql_expr_test": [
            {
                "expr": f"group by (alertname) ({select('ALERTS', asked)})",
                "eval_time": f"{case.minutes}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(case.fires)],
            }
        ],
    }


def level(*parts: Parts) -> str:
    """The samples of a gauge, from values and their durations in minutes."""
    return " ".join(f"{value:.10g}+0x{minutes - 1}" for value, minutes in parts)


def growth(*parts: Parts) -> str:
    """The samples of a counter that starts at 0, from growths per minute and their durations in minutes."""
    texts, value = [], 0.0
    for step, minutes in parts:
        texts.append(f"{value:.10g}+{step:.10g}x{minutes - 1}")
        value += step * minutes
    return " ".join(texts)


def healthy(t: Target) -> dict[str, str]:
    """The time series of a healthy service, with one sample per minute."""
    rate = max(60, t.options.min_requests / 20)
    return {
        _of_job(t, "up"): level((1, ALL)),
        _of_job(t, "robustcls_ready"): level((1, ALL)),
        _answers(t, "200"): growth((rate, ALL)),
        _fast(t): growth((rate, ALL)),
        _refused(t): growth((0, ALL)),
        _of(t, "robustcls_queue_requests"): level((3, ALL)),
        _of(t, "robustcls_queue_capacity_requests"): level((128, ALL)),
        _of(t, "robustcls_worker_restarts_total"): growth((0, ALL)),
        _info(t, t.sha256): level((1, ALL)),
        _of(t, "robustcls_model_evaluated"): level((1, ALL)),
        _of(t, "robustcls_reference_logit_difference"): level((t.logit_bound / 10, ALL)),
        _of(t, "robustcls_drift_statistic", output="a"): level((0.05, ALL)),
        _of(t, "robustcls_drift_statistic", output="b"): level((0.04, ALL)),
        _of(t, "robustcls_drift_threshold"): level((0.11, ALL)),
        _windows(t, "true"): growth((0, ALL)),
        _windows(t, "false"): growth((1, ALL)),
        _label(t, "a"): growth((30, ALL)),
        _label(t, "b"): growth((30, ALL)),
        _of(t, "robustcls_confidence_ratio_sum"): growth((54, ALL)),
        _of(t, "robustcls_confidence_ratio_count"): growth((60, ALL)),
    }


def others(t: Target) -> dict[str, str]:
    """Unhealthy series that no alert may react to: another service, another model of this service, and requests that are not
    inference requests."""
    service, model, other = replace(t, job=f"{t.job}-other"), replace(t, name=f"{t.name}-other"), "0" * 64
    probes = {"http_request_method": "GET", "le": "+Inf"}
    return {
        _of_job(service, "up"): level((0, ALL)),
        _of_job(service, "robustcls_ready"): level((0, ALL)),
        _of(service, "robustcls_worker_restarts_total"): growth((1, ALL)),
        **{_info(one, other): level((1, ALL)) for one in (service, model)},
        **{_of(one, "robustcls_model_evaluated"): level((0, ALL)) for one in (service, model)},
        **{
            _of(one, "robustcls_reference_logit_difference"): level((9 * t.logit_bound, ALL))
            for one in (service, model)
        },
        **{
            _of_job(t, f"{REQUESTS}_count", http_response_status_code=status, **probes): growth((9e4, ALL))
            for status in ("200", "503")
        },
    }


def _budget(t: Target) -> Iterator[Case]:
    rate = max(60, t.options.min_requests / 20)
    for kind, objective in (("Error", t.options.slo), ("Latency", t.options.latency_slo)):
        names = [f"Robustcls{kind}Budget{burn.word}" for burn in BURNS]

        def service(*shares: Parts, rate: float = rate, kind: str = kind) -> dict[str, str | None]:
            """The series for shares of bad requests and their durations in minutes."""
            bad = growth(*((share * rate, minutes) for share, minutes in shares))
            good = growth(*(((1 - share) * rate, minutes) for share, minutes in shares))
            if kind == "Error":
                return {_answers(t, "200"): good, _fast(t): good, _answers(t, "503"): bad}
            return {_answers(t, "200"): growth((rate, sum(minutes for _, minutes in shares))), _fast(t): good}

        for place, burn in enumerate(BURNS):
            bound, name = burn.factor * (1 - objective), names[place]
            yield Case(name, "a tenth above its bound", service((1.1 * bound, ALL)), frozenset(names[place:]), LATER)
            yield Case(
                name, "a tenth below its bound", service((0.9 * bound, ALL)), frozenset(names[place + 1 :]), LATER
            )
            requests, hold = t.options.min_requests, int(burn.hold.removesuffix("m"))
            when = max(LATER, 10 * hold)
            few, enough = (service((1, when + 1), rate=requests / over) for over in (1.25 * when, when - hold - 3))
            yield Case(name, "all requests, but too few requests", few, minutes=when, alone=True)
            yield Case(name, "all requests, and enough requests", enough, frozenset([name]), when, alone=True)
            all_at_once = service((1, ALL), rate=2 * requests)
            yield Case(name, "all requests, but not for long enough", all_at_once, minutes=hold, alone=True)
            yield Case(name, "all requests, for long enough", all_at_once, frozenset([name]), hold + 3, alone=True)
            minutes, long, short = max(MINUTES, LONG[burn.long]), LONG[burn.long], SHORT[burn.short]
            for which, whole, end in (("long", 0.9, 1.3), ("short", 1.3, 0.9)):
                before = min(1, (long * whole - short * end) / (long - short) * bound)
                shares = service((before, minutes + 1 - short), (end * bound, short))
                yield Case(name, f"a tenth below its bound in the {which} window", shares, minutes=minutes, alone=True)


def _service(t: Target) -> Iterator[Case]:
    gone = dict.fromkeys(healthy(t))
    blink = level((1, SOON), (0, 1))
    up, ready = _of_job(t, "up"), _of_job(t, "robustcls_ready")
    name = "RobustclsAbsent"
    yield Case(name, "nothing answers", {**gone, up: level((0, ALL))}, frozenset([name]), 4)
    yield Case(name, "not in the configuration of Prometheus", gone, frozenset([name]), 4)
    yield Case(name, "one scrape failed", {up: blink}, minutes=SOON)
    name = "RobustclsNotReady"
    yield Case(name, "it accepts no requests", {ready: level((1, SOON - 2), (0, ALL))}, frozenset([name]), SOON)
    yield Case(name, "a worker was replaced within a minute", {ready: blink}, minutes=SOON)
    name, queue = "RobustclsQueueNearlyFull", _of(t, "robustcls_queue_requests")
    yield Case(name, "115 of 128", {queue: level((3, SOON - 3), (115, ALL))}, frozenset([name]), SOON)
    yield Case(name, "all of 128, for a moment", {queue: level((3, SOON - 1), (128, 1), (3, ALL))}, minutes=SOON)
    yield Case(name, "from 100 to 128", {queue: level(*[(128, 2), (100, 1)] * 34)}, frozenset([name]), SOON)
    yield Case(name, "all of 128, just now", {queue: level((3, SOON - 2), (128, 3), (3, ALL))}, minutes=SOON)
    yield Case(name, "90 of 128", {queue: level((3, 5), (90, ALL))}, minutes=SOON)
    name, rate = "RobustclsRejections", max(600, t.options.min_requests / 20)

    def refusing(before: float, now: float, rate: float = rate) -> dict[str, str | None]:
        """The series for shares of refused requests before and in the last 9 minutes."""
        return {
            **{
                _refused(t, replica): growth((before * rate / 2, ALL - 9), (now * rate / 2, 9))
                for replica in (INSTANCE, "127.0.0.1:8081")
            },
            _answers(t, "400"): growth((before * rate, ALL - 9), (now * rate, 9)),
            _answers(t, "200"): growth(((1 - before) * rate, ALL - 9), ((1 - now) * rate, 9)),
            _fast(t): growth(((1 - before) * rate, ALL - 9), ((1 - now) * rate, 9)),
        }

    yield Case(name, "6%, after 1.5%", refusing(0.015, 0.06), frozenset([name]))
    yield Case(name, "25%, after 10%", refusing(0.1, 0.25))
    yield Case(name, "25%, but only just now", refusing(0, 0.25), minutes=MINUTES - 5)
    yield Case(name, "half of enough requests", refusing(0, 0.5, 9.2), frozenset([name]))
    yield Case(name, "4%, after none", refusing(0, 0.04))
    yield Case(name, "half of too few requests", refusing(0, 0.5, 7.2))
    name, restarts = "RobustclsWorkerRestarts", _of(t, "robustcls_worker_restarts_total")
    yield Case(name, "two within 10 minutes", {restarts: level((0, ALL - 10), (1, 4), (2, 6))}, frozenset([name]))
    yield Case(name, "one", {restarts: level((0, ALL - 10), (1, 10))})
    yield Case(name, "two within half an hour", {restarts: level((0, ALL - 30), (1, 20), (2, 10))})


def _model(t: Target) -> Iterator[Case]:
    other = "0" * 64
    name = "RobustclsModelAbsent"
    yield Case(
        name, "it serves another model", {one: None for one in healthy(t) if "model=" in one}, frozenset([name]), 4
    )
    yield Case(name, "missing in a few scrapes", {_info(t, t.sha256): f"{level((1, SOON - 6))} _x6"}, minutes=SOON)
    name = "RobustclsOtherFile"
    yield Case(
        name, "another SHA-256", {_info(t, t.sha256): None, _info(t, other): level((1, ALL))}, frozenset([name]), SOON
    )
    yield Case(name, "replaced in time", {_info(t, other): level((1, 4))}, minutes=3)
    name, evaluated = "RobustclsNotEvaluated", _of(t, "robustcls_model_evaluated")
    yield Case(name, "without an evaluation", {evaluated: level((0, ALL))}, frozenset([name]), SOON)
    yield Case(name, "without an evaluation for a minute", {evaluated: level((1, SOON - 1), (0, 2))}, minutes=SOON)
    yield Case(name, "evaluated a minute ago", {evaluated: level((0, SOON), (1, 1))}, minutes=SOON)
    name, differs = "RobustclsReferenceDifference", _of(t, "robustcls_reference_logit_difference")
    yield Case(name, "a fifth above the bound", {differs: level((1.2 * t.logit_bound, ALL))}, frozenset([name]), SOON)
    yield Case(name, "not a number", {differs: " ".join(["NaN"] * ALL)}, frozenset([name]), SOON)
    yield Case(name, "a fifth below the bound", {differs: level((0.8 * t.logit_bound, ALL))}, minutes=SOON)
    yield from _drift(t)
    yield from _outputs(t)


def _drift(t: Target) -> Iterator[Case]:
    name, statistic, good, bad = (
        "RobustclsDrift", _of(t, "robustcls_drift_statistic", output="b"), _windows(t, "false"), _windows(t, "true"),
    )  # fmt: skip
    above = level((0.04, ALL - 7), (0.2, 7))
    running = {statistic: above, good: growth((1, ALL - 7), (0, 7)), bad: growth((0, ALL - 7), (1, 7))}
    yield Case(name, "seven windows within minutes", running, frozenset([name]))
    two = {
        statistic: level((0.04, 55), (0.2, ALL - 55)),
        good: level((0, 30), (1, ALL - 30)),
        bad: level((0, 55), (1, 35), (2, ALL - 90)),
    }
    yield Case(name, "two windows of half an hour", two, frozenset([name]))
    yield Case(name, "one window", {**two, bad: level((0, 55), (1, ALL - 55))})
    mixed = {**running, good: growth((1, ALL - 7), (0.3, 7)), bad: growth((0, ALL - 7), (0.7, 7))}
    yield Case(name, "seven windows in ten", mixed)
    yield Case(name, "the last window is good again", {**running, statistic: level((0.04, ALL))})


def _outputs(t: Target) -> Iterator[Case]:
    rest = 36  # minutes after the change: the short window and the time for which the condition must be true
    name, first, second = "RobustclsLabelShare", _label(t, "a"), _label(t, "b")

    def shares(now: float, rate: float = 60) -> dict[str, str | None]:
        return {
            first: growth((rate / 2, ALL - rest), (now * rate, rest)),
            second: growth((rate / 2, ALL - rest), ((1 - now) * rate, rest)),
        }

    few, enough = 0.8 * LEAST_IMAGES / 30, 1.15 * LEAST_IMAGES / 30
    yield Case(name, "from 50% to 62%", shares(0.62), frozenset([name]))
    yield Case(name, "from 50% to 62%, just now", shares(0.62), minutes=MINUTES - 6)
    yield Case(name, "from 50% to 59%", shares(0.59))
    yield Case(name, "from 50% to 70%, of too few images", shares(0.7, few))
    yield Case(name, "from 50% to 70%, of enough images", shares(0.7, enough), frozenset([name]))
    name, total = "RobustclsConfidence", _of(t, "robustcls_confidence_ratio_sum")
    yield Case(name, "from 0.9 to 0.78", {total: growth((54, ALL - rest), (46.8, rest))}, frozenset([name]))
    yield Case(name, "from 0.9 to 0.78, just now", {total: growth((54, ALL - rest), (46.8, rest))}, minutes=MINUTES - 6)
    yield Case(name, "from 0.9 to 0.81", {total: growth((54, ALL - rest), (48.6, rest))})
    slow = {_label(t, one): growth((few / 2, ALL)) for one in "ab"}
    yield Case(name, "from 0.9 to 0.7, of too few images", {**slow, total: growth((54, ALL - rest), (42, rest))})


def _of_job(t: Target, metric: str, **labels: str) -> str:
    return select(metric, {"job": t.job, "instance": INSTANCE, **labels})


def _of(t: Target, metric: str, **labels: str) -> str:
    return _of_job(t, metric, model=t.name, version=VERSION, **labels)


def _info(t: Target, sha256: str) -> str:
    return _of(t, "robustcls_model_info", sha256=sha256)


def _answers(t: Target, status: str) -> str:
    return _of_job(t, f"{REQUESTS}_count", http_request_method="POST", http_response_status_code=status)


def _fast(t: Target) -> str:
    from prometheus_client.utils import floatToGoString

    bound = floatToGoString(t.latency_bound)
    return _of_job(t, f"{REQUESTS}_bucket", http_request_method="POST", http_response_status_code="200", le=bound)


def _refused(t: Target, instance: str = INSTANCE) -> str:
    return _of_job(t, "robustcls_rejected_total", instance=instance, reason="decoding")


def _windows(t: Target, drifted: str) -> str:
    return _of(t, "robustcls_drift_windows_total", drifted=drifted)


def _label(t: Target, label: str) -> str:
    return _of(t, "robustcls_predictions_total", label=label)
