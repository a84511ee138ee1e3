"""Read the metrics of a running service, and whether it is ready."""

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from time import monotonic
from typing import IO, Any

from prometheus_client.parser import text_string_to_metric_families

from robustcls.core.errors import InputError

MOST_BYTES = 16 << 20
SECONDS = 5.0  # timeout of a request


@dataclass(frozen=True)
class Histogram:
    """A histogram of Prometheus."""

    bounds: tuple[
        tuple[float, float], ...
    ] = ()  # ascending upper bounds, each with the number of values at or below it
    total: float = 0.0  # sum of the values
    count: float = 0.0

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """Estimate a quantile as Prometheus does, linearly within a bucket; at most the last finite bound. None if empty."""
        if not self.count or not self.bounds:
            return None
        rank, below, before = share * self.bounds[-1][1], 0.0, 0.0
        for bound, number in self.bounds:
            if number >= rank and number > before:
                if math.isinf(bound):
                    return below
                return below + (bound - below) * (rank - before) / (number - before)
            below, before = bound if math.isfinite(bound) else below, number
        return below


@dataclass(frozen=True)
class Reading:
    """The samples of a service at one time.

    ready, reasons: the answer of /v2/health/ready, and why the service is not ready. at: seconds of a monotonic clock.
    """

    ready: bool
    samples: Mapping[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)
    at: float = 0.0
    reasons: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, ready: bool, at: float = 0.0, reasons: tuple[str, ...] = ()) -> "Reading":
        """Parse the text of /metrics. Raises InputError if it is not one of a robustcls service."""
        samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        except (ValueError, KeyError, IndexError) as error:
            raise InputError(
                f"/metrics is not in the format of Prometheus: {' '.join(str(error).split()):.100}"
            ) from None
        if "robustcls_ready" not in samples:
            raise InputError("/metrics has no robustcls_ready: give the address of a robustcls service")
        return cls(ready, samples, at, reasons)

    def values(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """The samples of a metric that have these labels."""
        for found, value in self.samples.get(name, ()):
            if labels.items() <= found.items():
                yield found, value

    def value(self, name: str, **labels: str) -> float | None:
        """The sum over the samples; None if there are none."""
        found = [value for _, value in self.values(name, **labels)]
        return sum(found) if found else None

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The sums of the samples for each value of one label."""
        found: dict[str, float] = {}
        for own, value in self.values(name, **labels):
            found[own.get(label, "")] = found.get(own.get(label, ""), 0.0) + value
        return found

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The sum of all histograms that have these labels."""
        by_bound = {float(bound): number for bound, number in self.by(f"{name}_bucket", "le", **labels).items()}
        total, count = (self.value(f"{name}_{part}", **labels) or 0.0 for part in ("sum", "count"))
        return Histogram(tuple(sorted(by_bound.items())), total, count)

    def since(self, earlier: "Reading") -> "Reading":
        """This reading with counters relative to an earlier reading; unchanged if the service has restarted since."""
        before = {
            (name, tuple(sorted(labels.items()))): value
            for name, found in earlier.samples.items()
            for labels, value in found
            if name.endswith(("_total", "_count", "_sum", "_bucket"))
        }
        rest = {
            name: [(labels, value - before.get((name, tuple(sorted(labels.items()))), 0.0)) for labels, value in found]
            for name, found in self.samples.items()
        }
        counted = (value for name, found in rest.items() if name.endswith(("_total", "_count")) for _, value in found)
        return self if min(counted, default=0.0) < 0 else replace(self, samples=rest)


def read(url: str) -> Reading:
    """Read /v2/health/ready and /metrics of a service, nothing else. Raises InputError if the service does not answer."""
    base = base_of(url)
    ready, health = _get(f"{base}/v2/health/ready")
    status, text = _get(f"{base}/metrics")
    if status != 200:
        raise InputError(f"{base}/metrics answers with status {status}: give the address of robustcls serve")
    try:
        return Reading.parse(text, ready == 200, monotonic(), _reasons(health))
    except InputError as error:
        raise InputError(f"{base}{error}") from None


def _reasons(text: str) -> tuple[str, ...]:
    """The reasons why a service is not ready, from its JSON answer."""
    try:
        found = json.loads(text)["reasons"]
        return tuple(str(one) for one in found) if isinstance(found, list) else ()
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def base_of(url: str) -> str:
    """Return `http://HOST:PORT`, with a path if the service has one. Raises InputError."""
    try:
        parts = urllib.parse.urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isascii()
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment or parts.username or any(not one.isprintable() for one in url + " "):
        raise InputError(f"{url} is not the address of a service: give one such as http://127.0.0.1:8080")
    return url.rstrip("/").removesuffix("/metrics").rstrip("/")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Refuse redirects, so that only the given address is contacted."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def _get(url: str) -> tuple[int, str]:
    """Status and text. Raises InputError."""
    try:
        with _OPENER.open(urllib.request.Request(url, headers={"Accept": "text/plain"}), timeout=SECONDS) as answer:
            return answer.status, _text(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _text(error)
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise InputError(f"{url} does not answer: {' '.join(reason.split()):.100}: is the service running?") from None


def _text(answer: IO[bytes]) -> str:
    body = answer.read(MOST_BYTES + 1)
    if len(body) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES >> 20} MB")
    return body.decode("utf-8", "replace")
