"""Alerts on the burn rates of two error budgets, failed requests and slow answers, over several windows.

Each alert uses a long window, so that it fires only for significant problems, and a short window, so that it ends soon after
its cause is gone. The factors are from Google's Site Reliability Workbook, chapter 5, for a budget of 30 days.
"""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.utils import floatToGoString

from robustcls.serving.monitoring.alert import PAGE, TICKET, Alert
from robustcls.serving.monitoring.target import Target


class Burn(NamedTuple):
    """A burn rate: how fast an error budget is used up."""

    word: str
    long: str
    short: str
    factor: float  # 1 uses up the whole budget in 30 days
    severity: str
    hold: str


BURNS = (
    Burn("Fast", "1h", "5m", 14.4, PAGE, "1m"),
    Burn("Medium", "6h", "30m", 6, PAGE, "5m"),
    Burn("Slow", "3d", "6h", 1, TICKET, "30m"),
)
FAILED, ANSWERED = 'http_response_status_code=~"5.."', 'http_response_status_code=~"2.."'
WINDOWS = ("5m", "30m", "1h", "6h", "3d")


def errors_ratio(t: Target, window: str) -> str:
    """The expression for the share of requests with a server error; no sample if there are no requests."""
    every, failed = (
        f"sum by (job) (rate({one}[{t.span(window)}]))" for one in (t.requests(), t.requests("count", FAILED))
    )
    return f"({failed} or 0 * {every}) / ({every} > 0)"


def _slow_ratio(t: Target, window: str) -> str:
    """The expression for the share of answers that took longer than the latency objective."""
    within = t.requests("bucket", ANSWERED, f'le="{floatToGoString(t.latency_bound)}"')
    every, fast = (f"sum by (job) (rate({one}[{t.span(window)}]))" for one in (t.requests("count", ANSWERED), within))
    return f"1 - {fast} / ({every} > 0)"


def budget_records(t: Target) -> Iterator[dict[str, str]]:
    """Recording rules for the number of requests, and for the shares that failed or were slow, in each window."""
    for window in WINDOWS:
        number = f"sum by (job) (increase({t.requests()}[{t.span(window)}]))"
        yield {"record": f"job:robustcls_errors:ratio_rate{window}", "expr": errors_ratio(t, window)}
        yield {"record": f"job:robustcls_slow:ratio_rate{window}", "expr": _slow_ratio(t, window)}
        yield {"record": f"job:robustcls_requests:increase{window}", "expr": number}


def budget_alerts(t: Target) -> Iterator[Alert]:
    """The alerts on errors and on latency, one for each burn rate."""
    kinds = (
        ("Error", "errors", t.options.slo, "of the requests fail"),
        ("Latency", "slow", t.options.latency_slo, f"of the answers take longer than {t.latency_bound:g} s"),
    )
    for kind, series, objective, words in kinds:
        for burn in BURNS:
            bound = f"{burn.factor * (1 - objective):.6g}"
            long, short = (
                f"{t.of_job(f'job:robustcls_{series}:ratio_rate{window}')} > {bound}"
                for window in (burn.long, burn.short)
            )
            enough = f"{t.of_job(f'job:robustcls_requests:increase{burn.long}')} >= {t.options.min_requests}"
            yield Alert(
                f"Robustcls{kind}Budget{burn.word}", burn.severity, burn.hold, f"{long} and {short} and {enough}",
                f"The {kind.lower()} budget is being used up {burn.factor:g} times too fast",
                f"{{{{ $value | humanizePercentage }}}} {words} in {{{{ $labels.job }}}} over {burn.long}; the objective "
                f"allows {1 - objective:.3%}.",
            )  # fmt: skip
