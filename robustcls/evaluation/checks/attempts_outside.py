"""Whether the attacks stay within the threat model."""

from robustcls.evaluation.attacks import NamedAttack
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check, verdict_of_share
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

MANY = 0.05  # share of an attack's attempts above which the check fails


@check(105)
def attempts_outside(engine: Engine, outcome: Outcome) -> Check | None:
    """A warning or failure if an attack returns images outside the ball or [0, 1], which do not count; otherwise None.

    Minimum-norm attacks may return such images, and so may built-in attacks that are told not to stop early.
    """
    shares = [
        (outside / tried, outside, tried, name)
        for attack, outside, (_, tried), name in zip(
            outcome.attacks, outcome.outside, outcome.lost, outcome.names, strict=True
        )
        if outside and not _may_leave(engine, attack)
    ]
    if not shares:
        return None
    share, outside, tried, name = max(shares)
    what = f"{outside} of {tried} images of {name} lie outside {engine.threat} or [0, 1] and count for nothing"
    advice = (
        "robust accuracy is overstated unless another attack breaks these samples: end with threat.project(x_adv, x)"
    )
    return verdict_of_share("attempts_outside", share, (0.0, MANY), what, advice, advice)


def _may_leave(engine: Engine, attack: NamedAttack) -> bool:
    stops_early = engine.prepare(attack).options.get("early_stop", True)
    return attack.traits.minimum_norm or not (stops_early or attack.is_own)
