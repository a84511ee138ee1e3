"""The verdict on an evaluation: thresholds against intervals."""

from dataclasses import dataclass, field

from robustcls.core.errors import InputError
from robustcls.core.records import Accuracy, Evaluation

PASS, WARN, FAIL, INCONCLUSIVE, UNJUDGED = "PASS", "WARN", "FAIL", "INCONCLUSIVE", "NOT JUDGED"


@dataclass(frozen=True)
class Policy:
    """What a model must reach, as shares in [0, 1]; None asks for nothing."""

    min_clean: float | None = None
    min_robust: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_clean", "min_robust"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} {value} is not a share: give a number from 0 to 1, such as 0.40")


@dataclass(frozen=True)
class Verdict:
    """PASS, WARN, FAIL, INCONCLUSIVE or NOT JUDGED, with the reasons in words."""

    status: str
    reasons: list[str] = field(default_factory=list)


def judge(evaluation: Evaluation, policy: Policy) -> Verdict:
    """PASS needs the whole interval at or above each threshold; FAIL has one wholly below.

    INCONCLUSIVE: an interval straddles its threshold, a diagnostic failed, or an attack broke off. WARN: passed, and a
    diagnostic warns.
    Without thresholds nothing is judged.
    """
    wanted = [
        (name, accuracy, threshold)
        for name, accuracy, threshold in (
            ("clean", evaluation.clean, policy.min_clean),
            ("robust", evaluation.robust, policy.min_robust),
        )
        if threshold is not None
    ]
    if not wanted:
        return Verdict(UNJUDGED, ["no thresholds were given"])
    outcomes = [_against(name, accuracy, threshold) for name, accuracy, threshold in wanted]
    failed = [f"check {check.id} failed: {check.message}" for check in evaluation.checks if check.status == "fail"]
    failed += [f"attack {attack.name} broke off: {attack.error}" for attack in evaluation.attacks if attack.error]
    warned = [f"check {check.id} warns: {check.message}" for check in evaluation.checks if check.status == "warn"]
    reasons = [reason for _, reason in outcomes]
    statuses = {status for status, _ in outcomes}
    if FAIL in statuses:
        return Verdict(FAIL, reasons + failed + warned)
    if INCONCLUSIVE in statuses or failed:
        return Verdict(INCONCLUSIVE, reasons + failed + warned)
    return Verdict(WARN if warned else PASS, reasons + warned)


def _against(name: str, accuracy: Accuracy, threshold: float) -> tuple[str, str]:
    low, high = accuracy.ci95
    status = PASS if low >= threshold else FAIL if high < threshold else INCONCLUSIVE
    how = {PASS: "at or above", FAIL: "below", INCONCLUSIVE: "around"}[status]
    interval = f"{accuracy.accuracy:.1%} [{low:.1%}, {high:.1%}]"
    return status, f"{name} accuracy {interval} lies {how} the threshold {threshold:.1%}"
