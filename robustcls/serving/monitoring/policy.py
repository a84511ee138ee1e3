"""The policy for a running service, and the verdict on the service's state."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

from robustcls.core.config import read_toml, resolve
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.results.policy import Policy
from robustcls.results.thresholds import FAIL, INCONCLUSIVE, PASS
from robustcls.serving.monitoring.state import Model, Robust, State

SHARES = ("min_robust", "max_error_share", "max_rejected_share", "max_queue_share", "min_confidence")


@dataclass(frozen=True)
class ServicePolicy:
    """Bounds for a running service; None means no bound. Requests count from the start of the service."""

    norm: str | None = None  # threat model of min_robust, together with eps
    eps: str | float | None = None
    min_robust: float | None = None  # robust accuracy of the served file, by its whole interval
    evaluated: bool = False  # the served file must have its own evaluation
    sha256: str | None = None  # of the file that must be served, or the first digits of it
    max_p50_ms: float | None = None  # time of a request, estimated from the histogram
    max_p99_ms: float | None = None
    max_error_share: float | None = None  # requests answered with status 500 or higher
    max_rejected_share: float | None = None
    max_queue_share: float | None = None  # of the capacity of the queue
    max_restarts: float | None = None  # of workers
    min_confidence: float | None = None  # mean probability of the predicted class
    max_reference_difference: float | None = None  # largest difference of a logit of the reference images

    def __post_init__(self) -> None:
        for name in (one.name for one in fields(self) if one.name.startswith(("min_", "max_"))):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= (1 if name in SHARES else float("inf")):
                raise InputError(
                    f"{name} = {value:g} is out of range: give {'0 to 1' if name in SHARES else '0 or more'}"
                )
        if (self.norm is None) != (self.eps is None):
            raise InputError('a policy names a threat by norm and eps together, such as norm = "linf", eps = "8/255"')
        if self.norm is not None:
            ThreatModel(self.norm, self.eps)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> tuple["ServicePolicy", list[str]]:
        """Read a TOML file; return the policy, and the keys in it that only `robustcls gate` checks. Raises InputError."""
        values = read_toml(path, "`policy`")
        own = {one.name for one in fields(cls)}
        others = {one.name for one in fields(Policy)} - own
        try:
            found = resolve(cls, {name: value for name, value in values.items() if name not in others})
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if found.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{1,64}", found.sha256):
            raise InputError(
                f"{path}: sha256 = {found.sha256!r:.80} is not a SHA-256: give its hexadecimal digits, or the first ones"
            )
        return found, [name for name in values if name in others and name != "name"]

    @property
    def is_empty(self) -> bool:
        """Whether the policy has no bounds; a threat model alone is not a bound."""
        return self == ServicePolicy(norm=self.norm, eps=self.eps)


class Finding(NamedTuple):
    """The result of one check: its status (PASS, FAIL or INCONCLUSIVE) and a text."""

    status: str
    text: str


def judge(state: State, policy: ServicePolicy) -> list[Finding]:
    """Return the faults of a service, and the results for all bounds of the policy.

    With any policy, a service must be ready, serve a model, show no drift in its last window, and reproduce its reference
    logits; of these checks, only failures are listed.
    """
    return [
        *_own_faults(state),
        *_service(state, policy),
        *(one for model in state.models for one in _model(model, policy)),
    ]


def _own_faults(state: State) -> Iterator[Finding]:
    if not state.ready:
        yield Finding(FAIL, f"not ready: {', '.join(state.reasons)}" if state.reasons else "not ready")
    if not state.models:
        yield Finding(FAIL, "serves no model")
    for one in state.models:
        if one.drifted:
            worst = one.drifted[0]
            more = f" and {len(one.drifted) - 1} more" if len(one.drifted) > 1 else ""
            text = f"{one.name}: drift of output {worst}{more}: {one.drift[worst]:.3g}, threshold {one.threshold:.3g}"
            yield Finding(FAIL, text)
        if one.reference is not None and not one.reference < float("inf"):
            yield Finding(FAIL, f"{one.name}: the logits of the reference images are not finite")


def _service(state: State, policy: ServicePolicy) -> Iterator[Finding]:
    for name, share in (("max_p50_ms", 0.5), ("max_p99_ms", 0.99)):
        seconds = state.requests.quantile(share)
        yield from _bound(policy, name, f"p{share * 100:.0f} of a request", None if seconds is None else 1000 * seconds)
    yield from _bound(policy, "max_error_share", "requests that failed", state.error_share)
    yield from _bound(policy, "max_rejected_share", "requests refused", state.rejected_share)


def _model(model: Model, policy: ServicePolicy) -> Iterator[Finding]:
    if policy.sha256 is not None:
        fits = model.sha256.startswith(policy.sha256.lower()) and policy.sha256 != ""
        yield Finding(
            PASS if fits else FAIL, f"{model.name}: serves the file {model.sha256[:12]}, required {policy.sha256[:12]}"
        )
    if policy.evaluated and policy.min_robust is None:
        missing = "" if model.evaluated else "no "
        yield Finding(PASS if model.evaluated else FAIL, f"{model.name}: {missing}evaluation of the served file")
    if policy.min_robust is not None:
        yield _robust(model, policy, policy.min_robust)
    queue = None if model.queued is None or not model.capacity else model.queued / model.capacity
    for name, words, value in (
        ("max_queue_share", "queue", queue),
        ("max_restarts", "restarts of workers", model.restarts),
        ("min_confidence", "mean confidence", model.confidence.mean),
        ("max_reference_difference", "difference of reference logits", model.reference),
    ):
        yield from _bound(policy, name, f"{model.name}: {words}", value)


def _robust(model: Model, policy: ServicePolicy, least: float) -> Finding:
    """The result for robust accuracy, by the rule of `gate`: PASS if the whole interval is at or above the bound, FAIL if it is
    below."""
    threat = "" if policy.norm is None else f" under {policy.norm} {policy.eps}"
    found = [one for one in model.robust if policy.eps is None or _same(one.norm, one.eps, policy)]
    if not model.evaluated or not found:
        return Finding(FAIL, f"{model.name}: no evaluation{threat} of the served file, required at least {least:.1%}")
    return max((_judged(model.name, one, least) for one in found), key=lambda one: _WORSE.index(one.status))


_WORSE = (PASS, INCONCLUSIVE, FAIL)


def _judged(name: str, found: Robust, least: float) -> Finding:
    status = PASS if found.lower >= least else FAIL if found.upper < least else INCONCLUSIVE
    interval = f"{found.accuracy:.1%} [{found.lower:.1%}, {found.upper:.1%}]"
    threat = f"under {found.norm} {found.eps}"
    if not (found.norm and found.eps):  # without a threat model, robust accuracy means nothing
        status, threat = INCONCLUSIVE, "under an unknown norm and radius"
    return Finding(status, f"{name}: robust accuracy {interval} {threat}, required at least {least:.1%}")


def _same(norm: str, eps: str, policy: ServicePolicy) -> bool:
    try:
        return norm == policy.norm and abs(parse_eps(eps) - parse_eps(policy.eps)) < 1e-9  # type: ignore[arg-type]
    except InputError:
        return False


def _bound(policy: ServicePolicy, name: str, words: str, value: float | None) -> Iterator[Finding]:
    """The result for one bound: none if the policy does not set it, INCONCLUSIVE if there was no traffic to measure on."""
    bound = getattr(policy, name)
    if bound is None:
        return
    show = "{:.1%}" if name in SHARES else "{:.4g} ms" if name.endswith("_ms") else "{:.4g}"
    required = f"required at {'least' if name.startswith('min') else 'most'} {show.format(bound)}"
    if value is None:
        yield Finding(INCONCLUSIVE, f"{words}: not measured yet, {required}")
        return
    fits = value >= bound if name.startswith("min") else value <= bound
    yield Finding(PASS if fits else FAIL, f"{words} {show.format(value)}, {required}")
