"""Policies and verdicts: the requirements of a policy are compared with the results of an evaluation."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robustcls.core import plugins
from robustcls.core.config import read_toml, resolve
from robustcls.core.errors import InputError, unknown
from robustcls.core.measures import with_fields
from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.results.comparison import defaults_of, in_version, plugin_of
from robustcls.results.records import Evaluation
from robustcls.results.thresholds import (
    FAIL,
    INCONCLUSIVE,
    PASS,
    THRESHOLDS,
    UNDER_ATTACK,
    UNJUDGED,
    WARN,
    About,
    Judged,
    check_bound,
    judge_threshold,
    not_measured,
    unit_of,
)

SHORT = 8  # minimum number of characters of a SHA-256 that identify a mask


@dataclass(frozen=True)
@with_fields(dict.fromkeys(THRESHOLDS, (float | None, None)))
class Policy:
    """The thresholds that a model must meet, and how it must have been evaluated. None: no requirement.

    Thresholds are shares in [0, 1] unless they have another unit. THRESHOLDS lists all of them, including those that the
    measures of an evaluation declare, such as `max_ece`.
    """

    min_clean: float | None = None
    min_robust: float | None = None
    min_n: int | None = None  # minimum number of samples
    norm: str | None = None  # norm of the threat model that the policy requires; needs eps
    eps: str | float | None = None
    # Further limits of the attacker. An evaluation must have exactly the limits that the policy states.
    mask: str | None = None  # the first 8 or more characters of the SHA-256 of the mask, as in the evaluation
    eight_bit: bool = False
    detector: str | None = None  # name of the detector, as in the evaluation
    required_attacks: tuple[str, ...] = ()  # specs of attacks, or names of suites
    name: str = ""
    positive: str | None = None  # the positive class, for sensitivity; default: that of the evaluation

    def __post_init__(self) -> None:
        for name in THRESHOLDS:
            value = getattr(self, name)
            if value is not None:
                check_bound(name, value)
        if self.min_n is not None and self.min_n < 1:
            raise InputError(f"min_n {self.min_n} is no number of samples: give 1 or more")
        if (self.norm is None) != (self.eps is None):
            raise InputError('a policy names a threat by norm and eps together, such as norm = "linf", eps = "8/255"')
        if self.norm is not None:
            ThreatModel(self.norm, self.eps)  # type: ignore[arg-type]
        object.__setattr__(self, "mask", self.mask and self.mask.lower())
        if self.mask is not None and not re.fullmatch(f"[0-9a-f]{{{SHORT},64}}", self.mask):
            raise InputError(
                f"mask {self.mask!r:.80} is no SHA-256: give the first {SHORT} characters or more of threat.mask.sha256 of the "
                "evaluation"
            )
        for spec in self.required_attacks:
            _check_attack(spec)

    @classmethod
    def load(cls, path: str | Path | None, **flags: Any) -> "Policy":
        """Load a policy from a TOML file with the fields of this class. Flags that are not None override the file.

        path: None to use only the flags. Raises InputError if the file cannot be read, has an unknown key or an invalid value.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        if path is None:
            return cls(**given)
        values = read_toml(path, "`policy`")
        try:
            policy = resolve(cls, values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return replace(policy, **given)

    @property
    def thresholds(self) -> dict[str, float]:
        """The thresholds that are set, in the order of THRESHOLDS."""
        return {name: value for name in THRESHOLDS if (value := getattr(self, name)) is not None}

    @property
    def threat_text(self) -> str:
        """The norm and the radius, such as `linf 8/255`, and further limits of the attacker."""
        mask = f" in the mask {self.mask}" if self.mask else ""
        limits = mask + (", examples in 8 bits" if self.eight_bit else "") + _beside(self.detector)
        if self.norm is None:
            return f"any norm and radius{limits}" if limits else "attackers that are limited only by norm and radius"
        return f"{self.norm} {self.eps}{limits}"


@dataclass(frozen=True)
class Criterion:
    """One requirement of a policy, with its status."""

    name: str  # key of the policy, or `diagnostics`
    asked: str  # the requirement in words
    status: str
    reason: str
    measured: str = ""  # the result in short form; "" if the reason contains it


@dataclass(frozen=True)
class Verdict:
    """PASS, WARN, FAIL, INCONCLUSIVE or NOT JUDGED, with reasons in words."""

    status: str
    reasons: list[str] = field(default_factory=list)
    criteria: list[Criterion] = field(default_factory=list)


def judge(evaluation: Evaluation, policy: Policy) -> Verdict:
    """Judge an evaluation by a policy.

    PASS: for each threshold, the whole 95% interval lies on the right side. FAIL: for one threshold, it lies entirely on the
    wrong side. INCONCLUSIVE: an interval contains its threshold, a required quantity was not measured or was measured in
    another way than the policy requires, a self-check failed, or an attack failed. WARN: passed, but a self-check warned or
    none was run. Certified accuracy is judged at the norm and radius of the policy, independently of the attacks, and is
    INCONCLUSIVE if the certificates do not cover them. Calibration errors and the mean over corruptions have no interval here,
    so their values are compared. Without thresholds, nothing is judged.
    """
    if not policy.thresholds:
        return Verdict(UNJUDGED, ["no thresholds were given", *_failed(evaluation), *_warned(evaluation)])
    criteria = _conditions(evaluation, policy)
    threat = None if policy.norm is None else ThreatModel(policy.norm, policy.eps)  # type: ignore[arg-type]
    about = About(threat, policy.detector, policy.positive)
    threat_fits = all(one.status == PASS for one in criteria if one.name == "threat")
    for name, threshold in policy.thresholds.items():
        if name in UNDER_ATTACK and not evaluation.attacks:
            judged = not_measured(name)
        elif name in UNDER_ATTACK and evaluation.targeted:
            judged = not_measured(
                name, f"the attacks aim at one class, {evaluation.targeted.target}: evaluate without a target"
            )
        elif evaluation.targeted and evaluation.targeted.left_out:
            judged = not_measured(
                name,
                f"{evaluation.targeted.left_out} samples of the target's class were left out: evaluate without a target",
            )
        elif name in UNDER_ATTACK and not threat_fits:
            reason = f"{THRESHOLDS[name]} under {policy.threat_text} was not measured"
            judged = Judged(INCONCLUSIVE, reason, f"not measured under {policy.threat_text}")
        else:
            judged = judge_threshold(name, evaluation, threshold, about)
        side = "at least" if name.startswith("min") else "at most"
        asked = f"{THRESHOLDS[name]} {side} {unit_of(name).show(threshold)}"
        criteria.append(Criterion(name, asked, judged.status, judged.reason, judged.measured))
    failed, warned = _failed(evaluation), _warned(evaluation)
    reasons = [one.reason for one in criteria if one.name in THRESHOLDS or one.status != PASS] + failed + warned
    criteria.append(_diagnostics(evaluation, failed, warned))
    if criteria[-1].status == UNJUDGED:
        reasons.append(criteria[-1].reason)
    statuses = {WARN if one.status == UNJUDGED else one.status for one in criteria}
    status = next((one for one in (FAIL, INCONCLUSIVE, WARN) if one in statuses), PASS)
    return Verdict(status, reasons, criteria)


def lacking_attacks(evaluation: Evaluation, wanted: tuple[str, ...]) -> list[str]:
    """Return the attacks of `wanted` that were not run to the end with the required options.

    A suite stands for its attacks, in the version that the evaluation records; their other options must have their defaults.
    """
    lacking = []
    for one in wanted:
        suite = _is_suite(one)
        if suite and "(" not in one and one in evaluation.suite_versions:
            one = in_version(one, evaluation.suite_versions[one])
        for spec in plugins.load("suite", one)(evaluation.threat.norm) if suite else [one]:
            parsed = plugins.parse("attack", spec)
            options = (defaults_of(parsed.name) if suite else {}) | dict(parsed.options)
            if not any(
                plugin_of(attack.name) == parsed.name
                and not attack.error
                and all(attack.options.get(key, value) == value for key, value in options.items())
                for attack in evaluation.attacks
            ):
                lacking.append(spec)
    return lacking


def _is_suite(spec: str) -> bool:
    return spec.partition("(")[0] in plugins.names("suite")


def _check_attack(spec: str) -> None:
    """Raise InputError if a spec is neither a suite nor an attack. For user code, only the syntax is checked."""
    if _is_suite(spec):
        plugins.load("suite", spec)("linf")  # raises InputError for an unknown version
        return
    parsed = plugins.parse("attack", spec)
    known = {one.name: one for one in plugins.describe("attack")}
    if ":" in parsed.name:
        return
    if parsed.name not in known:
        raise unknown("required attack or suite", parsed.name, [*known, *plugins.names("suite")])
    options = [option.name for option in known[parsed.name].options]
    for name, _ in parsed.options:
        if name not in options:
            raise unknown(f"option of required attack {parsed.name}", name, options)


def _conditions(evaluation: Evaluation, policy: Policy) -> list[Criterion]:
    """Return the criteria about how the evaluation was made. They never FAIL, since they do not judge the model."""
    criteria = _threat(evaluation, policy)
    if policy.min_n is not None:
        n = evaluation.robust.total
        reason = f"n = {n:,} samples, {'at least' if n >= policy.min_n else 'fewer than'} {policy.min_n:,}"
        criteria.append(_condition("min_n", f"at least {policy.min_n:,} samples", n >= policy.min_n, reason))
    if policy.required_attacks:
        lacking = lacking_attacks(evaluation, policy.required_attacks)
        asked = f"attacked by {', '.join(policy.required_attacks)}"
        reason = f"was not {asked}: {', '.join(lacking)} did not run to the end" if lacking else f"was {asked}"
        criteria.append(_condition("required_attacks", asked, not lacking, reason))
    return criteria


def _threat(evaluation: Evaluation, policy: Policy) -> list[Criterion]:
    """Return the criterion about the threat model: norm and radius if the policy has them, and exactly its other limits."""
    threat, detector = evaluation.threat, evaluation.rejection.detector if evaluation.rejection else None
    mask = threat.mask.sha256 if threat.mask else ""
    mask = policy.mask if policy.mask and mask.startswith(policy.mask) else mask[:SHORT]
    present = _limits(mask, threat.eight_bit, detector)
    stated = _limits(policy.mask, policy.eight_bit, policy.detector)
    about_attacks = not UNDER_ATTACK.isdisjoint(policy.thresholds)
    if "min_certified" in policy.thresholds and not about_attacks:
        return []  # norm and radius apply to the certificates, which hold under any further limit of the attacker
    if policy.eps is None and not stated and not (present and about_attacks):
        return []
    same = policy.eps is None or (threat.norm == policy.norm and abs(threat.eps - parse_eps(policy.eps)) < 1e-9)
    fits, unstated = same and present == stated, [one for one in present if one not in stated]
    reason = f"attacked under {threat.text}{_beside(detector)}"
    reason += "" if fits else f", while the policy is about {policy.threat_text}"
    missing = [one for one in stated if one not in present]
    if unstated or missing:
        advice = [f"state {' and '.join(unstated)} in the policy, or evaluate without it"] if unstated else []
        advice += [f"evaluate with {' and '.join(missing)}, or leave it out of the policy"] if missing else []
        reason += f": {'; '.join(advice)}"
    return [_condition("threat", f"attacked under {policy.threat_text}", fits, reason)]


def _limits(mask: str | None, eight_bit: bool, detector: str | None) -> list[str]:
    """Return the limits that apply, as lines of a policy file."""
    lines = (mask and f'mask = "{mask}"', eight_bit and "eight_bit = true", detector and f'detector = "{detector}"')
    return [line for line in lines if line]


def _beside(detector: str | None) -> str:
    return f" beside the detector {detector}" if detector else ""


def _condition(name: str, asked: str, fits: bool, reason: str) -> Criterion:
    return Criterion(name, asked, PASS if fits else INCONCLUSIVE, reason)


def _failed(evaluation: Evaluation) -> list[str]:
    failed = [f"check {check.id} failed: {check.message}" for check in evaluation.checks if check.status == "fail"]
    return failed + [f"attack {attack.name} failed: {attack.error}" for attack in evaluation.attacks if attack.error]


def _warned(evaluation: Evaluation) -> list[str]:
    return [f"check {check.id} warns: {check.message}" for check in evaluation.checks if check.status == "warn"]


def _diagnostics(evaluation: Evaluation, failed: list[str], warned: list[str]) -> Criterion:
    asked = "no attack and no self-check failed"
    if failed or warned:
        return Criterion("diagnostics", asked, INCONCLUSIVE if failed else WARN, "; ".join(failed + warned))
    ran = sum(check.status != "not_run" for check in evaluation.checks)
    if not ran:
        return Criterion("diagnostics", asked, UNJUDGED, "no self-check was run")
    return Criterion("diagnostics", asked, PASS, f"no attack failed, and {ran} self-checks passed")
