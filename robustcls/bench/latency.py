"""The results of a load: quantiles of latencies with intervals, refusals, and requests that were not answered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binom

from robustcls.bench.load import MISSED

ANSWERED, REFUSED = 200, (429, 503)


@dataclass(frozen=True)
class Answers:
    """The results of one load. Latencies are in milliseconds, ascending, from the time when a request was due."""

    sent: int
    seconds: float
    latencies: list[float]  # of the requests answered within the deadline
    refusals: list[float]
    missed: int  # not answered within the deadline
    errors: int  # connections that ended, and statuses that are neither an answer nor a refusal
    in_window: int  # answered while requests were due
    late_p99_ms: float  # 99th percentile of the delay with which the client itself handled an arrival
    client_busy: float  # the client's processor time divided by the elapsed time; near 1, the client was the bottleneck

    @classmethod
    def of(cls, log: Mapping[str, Any]) -> "Answers":
        """Read the output of `robustcls.bench.load`."""
        rows = list(zip(log["status"], log["latency"], log["in_time"], strict=True))
        latencies = sorted(1000 * latency for status, latency, _ in rows if status == ANSWERED)
        refusals = sorted(1000 * latency for status, latency, _ in rows if status in REFUSED)
        missed = sum(status in (MISSED, 504) for status, _, _ in rows)
        return cls(
            sent=len(rows), seconds=log["seconds"], latencies=latencies, refusals=refusals, missed=missed,
            errors=len(rows) - len(latencies) - len(refusals) - missed,
            in_window=sum(status == ANSWERED and in_time for status, _, in_time in rows),
            late_p99_ms=1000 * (quantile(sorted(log["late"]), 0.99) or 0.0), client_busy=log["busy"],
        )  # fmt: skip

    @property
    def answered(self) -> int:
        return len(self.latencies)

    @property
    def refused(self) -> int:
        return len(self.refusals)

    @property
    def rate(self) -> float:
        """Answers per second, during the time in which requests were due."""
        return self.in_window / self.seconds

    def quantile(self, q: float) -> float | None:
        """A quantile of the latency of all requests, with unanswered ones as the slowest; None if it is an unanswered one."""
        return quantile(self.latencies, q, self.sent - self.answered)

    def accepted(self, q: float) -> float | None:
        """A quantile of the latency of all requests that were not refused; None if it is an unanswered one."""
        return quantile(self.latencies, q, self.missed + self.errors)

    def refusal(self, q: float) -> float | None:
        return quantile(self.refusals, q)

    def about(self) -> dict[str, Any]:
        """Return the results as JSON-ready values, p50 and p99 with 95% intervals."""
        missing = self.sent - self.answered
        return {
            "sent": self.sent, "answered": self.answered, "refused": self.refused, "missed": self.missed,
            "errors": self.errors, "seconds": self.seconds, "per_second": self.rate,
            "p50_ms": self.quantile(0.5), "p50_ci95_ms": interval(self.latencies, 0.5, missing),
            "p99_ms": self.quantile(0.99), "p99_ci95_ms": interval(self.latencies, 0.99, missing),
            "late_p99_ms": self.late_p99_ms, "client_busy": self.client_busy,
        }  # fmt: skip


def quantile(values: Sequence[float], q: float, larger: int = 0) -> float | None:
    """Return the smallest value that is at least as large as a share q of all values; None if it is not among `values`.

    Args:
        values: the known values, ascending.
        q: in (0, 1).
        larger: number of further, unknown values, which are larger than all known ones.
    """
    return _ranked(values, math.ceil(q * (len(values) + larger) - 1e-9))


def interval(values: Sequence[float], q: float, larger: int = 0, confidence: float = 0.95) -> list[float | None]:
    """Return a confidence interval of a quantile, from order statistics of independent values; None for an unknown bound.

    The number of values below the quantile is binomial, so no assumption on the distribution is needed.
    """
    n = len(values) + larger
    tail = (1 - confidence) / 2
    low, high = int(binom.ppf(tail, n, q)) if n else 0, int(binom.ppf(1 - tail, n, q)) + 1 if n else 1
    return [_ranked(values, low), _ranked(values, high)]


def _ranked(values: Sequence[float], rank: int) -> float | None:
    return values[rank - 1] if 0 < rank <= len(values) else None
