"""Burn rates of two error budgets, over several windows: requests that failed, and answers that were slow.

An alert needs a long window, so that it matters, and a short one, so that it ends soon after its cause. The factors are
those of Google's Site Reliability Workbook, chapter 5, for a budget of 30 days.
"""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.utils import floatToGoString

from robustcls.serving.monitoring.alert import PAGE, TICKET, Alert
from robustcls.serving.monitoring.target import Target


class Burn(NamedTuple):
    """How fast the budget is used up: 1 is all of it in 30 days."""

    word: str
    long: str
    short: str
    factor: float
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
    """The share of the requests that failed for the server's fault; nothing where there are none."""
    every, failed = (
        f"sum by (job) (rate({one}[{t.span(window)}]))" for one in (t.requests(), t.requests("count", FAILED))
    )
    return f"({failed} or 0 * {every}) / ({every} > 0)"


def _slow_ratio(t: Target, window: str) -> str:
    """The share of the answers that took longer than the latency asked for."""
    within = t.requests("bucket", ANSWERED, f'le="{floatToGoString(t.latency_bound)}"')
    every, fast = (f"sum by (job) (rate({one}[{t.span(window)}]))" for one in (t.requests("count", ANSWERED), within))
    return f"1 - {fast} / ({every} > 0)"


def budget_records(t: Target) -> Iterator[dict[str, str]]:
    """Requests, and the share of them that failed or was slow, in each window."""
    for window in WINDOWS:
        number = f"sum by (job) (increase({t.requests()}[{t.span(window)}]))"
        yield {"record": f"job:robustcls_errors:ratio_rate{window}", "expr": errors_ratio(t, window)}
        yield {"record": f"job:robustcls_slow:ratio_rate{window}", "expr": _slow_ratio(t, window)}
        yield {"record": f"job:robustcls_requests:increase{window}", "expr": number}


def budget_alerts(t: Target) -> Iterator[Alert]:
    """Two of each burn rate: errors and latency."""
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
                f"The {kind.lower()} budget is used up {burn.factor:g} times too fast",
                f"{{{{ $value | humanizePercentage }}}} {words} in {{{{ $labels.job }}}} over {burn.long}; the objective "
                f"allows {1 - objective:.3%}.",
            )  # fmt: skip
