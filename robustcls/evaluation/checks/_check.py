"""The shared parts of the self-checks: which samples they use, and from which share a check warns or fails."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import update_wrapper

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.losses import NO_ANSWER, margin
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.attacks import AttackLike, as_attack
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.results.records import Check

PASSIVE = 32  # samples of a check without an attack
SAMPLES = 100  # largest number of samples of a check that attacks
FEW = 16  # samples of a check that needs only a few, or that repeats an expensive attack
ZERO_GRADIENTS = 0.05  # share of samples without a gradient above which the check fails
# Thresholds for samples that contradict the result, as (count, share of those attacked): a check warns, or fails, above both.
# On models without gradient masking, Square also breaks one or two of hundreds (as AutoAttack's own tables show).
WARN, FAIL = (1, 0.01), (2, 0.05)
# The same for attacks on the survivors nearest to the boundary only: (count, share of all samples, largest share of those
# attacked).
WARN_LOST, FAIL_LOST = (1, 0.005, 0.25), (2, 0.02, 0.5)
NOTHING_LEFT = "gradient attacks left nothing to break"
NOTHING_CORRECT = "the model gets no clean image right, so there is nothing to break"
STANDARD = "run the suite standard"
AIMED = "the attacks aim at a class, and this check is about any wrong one"
# Reasons why gradient attacks cannot be compared with others.
NO_GRADIENTS, ELSEWHERE, WHOLE_BOX, NONE_USED = (
    "the model gives no gradients, so there is nothing to compare",
    "the gradients are another model's, so there is nothing to compare",
    "every image is allowed, so anything wins",
    "no attack used gradients, so there is nothing to compare",
)


class NotRun(Exception):
    """A check could not be made; the message says why."""


@dataclass
class CheckFunction:
    """A self-check that can be called: errors of models and attacks become results. None: the check does not apply."""

    function: Callable[[Engine, Outcome], Check | None]
    place: int  # position in the list of an evaluation
    thorough: bool  # run only on request, and not after the time limit

    def __post_init__(self) -> None:
        self.id: str = self.function.__name__
        update_wrapper(self, self.function)

    def __call__(self, engine: Engine, outcome: Outcome) -> Check | None:
        try:
            if self.thorough and (reason := engine.over()):
                raise NotRun(reason)
            return self.function(engine, outcome)
        except NotRun as reason:
            return Check(self.id, "not_run", None, None, str(reason))
        except Exception as failure:  # one failed check must not lose the results of a long cascade
            if not self.thorough:
                raise
            return Check(self.id, "not_run", None, None, _said(failure))


def check(
    place: int, *, thorough: bool = False
) -> Callable[[Callable[[Engine, Outcome], Check | None]], CheckFunction]:
    """Declare a function of the engine and the cascade's outcome as a check; its name is the check's id."""
    return lambda function: CheckFunction(function, place, thorough)


def verdict(name: str, measured: float, threshold: float, what: str, advice: str) -> Check:
    """Return a check that fails if the value measured is above the threshold or NaN."""
    failed = not measured <= threshold
    known = measured if math.isfinite(measured) else None  # JSON has no NaN
    return Check(name, "fail" if failed else "pass", known, threshold, f"{what}; {advice}" if failed else what)


def verdict_of_share(
    name: str, share: float, bounds: Sequence[float], what: str, if_warned: str, if_failed: str
) -> Check:
    """Return a check that warns if the share is above the first of the bounds, and fails if it is above the second."""
    warn, fail = bounds
    if share <= warn:
        return Check(name, "pass", share, warn, what)
    if share <= fail:
        return Check(name, "warn", share, warn, f"{what}; {if_warned}")
    return Check(name, "fail", share, fail, f"{what}; {if_failed}")


def verdict_of_count(name: str, count: int, total: int, what: str, if_warned: str, if_failed: str) -> Check:
    """Return a check of `count` of `total` samples, which should be 0, with the thresholds WARN and FAIL.

    The value measured is the share.
    """
    bounds = [max(least / total, share) for least, share in (WARN, FAIL)]
    return verdict_of_share(name, count / total, bounds, what, if_warned, if_failed)


def verdict_of_nearest(
    name: str, count: int, tried: int, n: int, attack: str, if_warned: str, if_failed: str, *, may_fail: bool = True
) -> Check:
    """Return a check of how many survivors near the boundary an attack broke, with the thresholds WARN_LOST and FAIL_LOST.

    The attack broke `count` of `tried` samples, out of n in total; the value measured is count / tried. may_fail: False lets
    the check only warn.
    """
    bounds = [min(max(least, share * n) / tried, most) for least, share, most in (WARN_LOST, FAIL_LOST)]
    what = (
        f"{attack} broke {count} of the nearest {tried} samples that the attacks left: robust accuracy falls by "
        f"{100 * count / n:.1f} points at least"
    )
    return verdict_of_share(
        name, count / tried, bounds if may_fail else [bounds[0], math.inf], what, if_warned, if_failed
    )


def is_differentiable(model: nn.Module) -> bool:
    """Whether the model gives gradients."""
    return getattr(getattr(model, "model", model), "differentiable", True)


def passive_rows(engine: Engine) -> Tensor:
    """Return the rows of a few samples, spread over the classes, since data sets may be sorted by class."""
    return spaced(engine.y, PASSIVE)


def correct_rows(engine: Engine, outcome: Outcome, most: int = 0) -> Tensor:
    """Return rows of samples that are classified correctly, at most SAMPLES or `most`. Raises NotRun if there are none."""
    rows = outcome.correct.nonzero().squeeze(1)
    if len(rows) == 0:
        raise NotRun(NOTHING_CORRECT)
    return spread(engine, rows, most)


def spread(engine: Engine, rows: Tensor, most: int = 0) -> Tensor:
    """Return at most SAMPLES, or `most`, of these rows, spread evenly over the classes."""
    return rows[spaced(engine.y[rows], most or SAMPLES)]


def nearest(engine: Engine, outcome: Outcome, among: Tensor, most: int) -> Tensor:
    """Return at most `most` of these rows, sorted: those whose strongest attempt came closest to another class.

    They include the samples that an attack just missed. Samples are ranked by the margin, which ranks those that other attacks
    break far higher than the difference of logits ratio does; if no attack ran on a sample, by that of its clean image.
    """
    if len(among) <= most:
        return among
    gap = outcome.margin[among]
    gap = gap.where(gap > -torch.inf, margin(engine.logits[among], engine.y[among]))
    return among[gap.argsort(descending=True, stable=True)[:most]].sort().values


def looked_at(engine: Engine, outcome: Outcome, done: Tensor) -> Tensor:
    """Return the samples whose attempts the checks that always run use, of those that are done (N, bool): N, bool."""
    wanted = torch.zeros(len(engine.y), dtype=torch.bool)
    answered = (outcome.clean != NO_ANSWER).nonzero().squeeze(1)
    wanted[answered[spaced(engine.y[answered], PASSIVE)]] = True
    wanted[nearest(engine, outcome, (outcome.robust & done).nonzero().squeeze(1), SAMPLES)] = True
    return wanted


def gradient_attacks(outcome: Outcome) -> list[int]:
    """Return the numbers of the cascade's attacks that used gradients and did not fail."""
    return [
        number for number, (attack, record) in enumerate(zip(outcome.attacks, outcome.records, strict=True))
        if attack.traits.gradients and not record.error
    ]  # fmt: skip


def compared_attacks(engine: Engine, outcome: Outcome) -> list[int]:
    """Return the numbers of the gradient attacks whose survivors another attack can test. Raises NotRun if it cannot."""
    if not is_differentiable(engine.model):
        raise NotRun(NO_GRADIENTS)
    if engine.subject.surrogate is not None:
        raise NotRun(ELSEWHERE)
    if engine.threat.is_whole_box:
        raise NotRun(WHOLE_BOX)
    if engine.subject.aim is not None:
        raise NotRun(AIMED)
    if not outcome.correct.any():
        raise NotRun(NOTHING_CORRECT)
    if not (white := gradient_attacks(outcome)):
        raise NotRun(NONE_USED)
    return white


def need_gradients(engine: Engine) -> None:
    """Raise NotRun unless gradient attacks on the model itself can be compared."""
    if not is_differentiable(engine.model):
        raise NotRun("the model gives no gradients, so no gradient attack can be compared")
    if engine.subject.surrogate is not None:
        raise NotRun("the gradients are another model's, so they say nothing about this one")
    if engine.threat.is_whole_box:
        raise NotRun("every image is allowed, so any attack wins")
    if engine.threat.eps == 0:
        raise NotRun("eps is 0, so there is nothing to attack")


def stream_of(name: str) -> int:
    """Return the number that identifies the random numbers of a check."""
    return mix(*name.encode())


def broken(
    engine: Engine,
    attack: AttackLike,
    rows: Tensor,
    threat: ThreatModel,
    stream: tuple[str, int],
    start: Tensor | None = None,
) -> Tensor:
    """Whether the attack breaks each of the samples at these rows: bool. stream: the check's id and a number."""
    if engine.subject.aim is not None:
        raise NotRun(AIMED)
    success, named = torch.zeros(len(engine.y), dtype=torch.bool), as_attack(attack)
    if not named.is_own and (what := threat.unknown_to(named.traits)):
        raise NotRun(f"{named.name} does not know {what.partition(':')[0]}, so there is nothing to compare")
    for attempts in engine.attack(named, rows, threat, (stream_of(stream[0]), stream[1]), start=start):
        success[attempts.indices] = attempts.success
    return success[rows]


def broken_by_probe(
    name: str, engine: Engine, rows: Tensor, probe: Sequence[tuple[str, Tensor | None]]
) -> tuple[int, str]:
    """Run attacks on the samples at these rows, each on the survivors of the one before; return how many break, and the specs.

    probe: spec and start of each attack. Raises NotRun if one fails.
    """
    success = torch.zeros(len(engine.y), dtype=torch.bool)
    for number, (spec, start) in enumerate(probe):
        left = rows[~success[rows]]
        try:
            success[left] = broken(engine, spec, left, engine.threat, (name, number), start)
        except AttackError as failure:
            raise NotRun(f"{spec} failed: {failure}") from None
    return int(success.sum()), ", ".join(spec for spec, _ in probe)


def _said(failure: Exception) -> str:
    if isinstance(failure, (AttackError, InputError)):
        return f"an attack of this check failed: {failure}"
    lines = str(failure).splitlines() or ["no message"]
    return f"this check failed: {type(failure).__name__}: {lines[0]}"
