"""Whether the strongest attack of the cascade breaks more samples with one option doubled."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import (
    FEW,
    SAMPLES,
    NotRun,
    broken,
    check,
    correct_rows,
    nearest,
    need_gradients,
    verdict_of_nearest,
)
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

__all__ = ["doubled_restarts", "doubled_steps", "doubled_targets"]

# Passes allowed for the repeated attack: this share of the cascade's, or PASSES if that is more.
REPEATED, PASSES = 0.25, 8000


@check(230, thorough=True)
def doubled_steps(engine: Engine, outcome: Outcome) -> Check:
    """Whether the strongest gradient attack breaks more with twice the steps, so that it had not converged."""
    return _doubled("steps", engine, outcome)


@check(240, thorough=True)
def doubled_restarts(engine: Engine, outcome: Outcome) -> Check:
    """Whether the strongest gradient attack breaks more with twice the restarts, so that its success was left to chance."""
    return _doubled("restarts", engine, outcome)


@check(250, thorough=True)
def doubled_targets(engine: Engine, outcome: Outcome) -> Check:
    """Whether the strongest targeted attack breaks more with twice as many target classes, so that it had too few."""
    return _doubled("targets", engine, outcome)


def _doubled(option: str, engine: Engine, outcome: Outcome) -> Check:
    need_gradients(engine)
    correct_rows(engine, outcome)
    number = _strongest(outcome, option)
    attack, record = outcome.attacks[number], outcome.records[number]
    twice = attack.but(**{option: 2 * attack.options[option]})
    robust = outcome.robust.nonzero().squeeze(1)
    if len(robust) == 0:
        raise NotRun("the attacks left nothing to break")
    cost = 2 * (record.forwards + record.backwards) / max(record.attacked, 1)
    most = min(max(int(max(REPEATED * outcome.passes, PASSES) / max(cost, 1)), FEW), SAMPLES)
    rows = nearest(engine, outcome, robust, most)
    name = f"doubled_{option}"
    count = int(broken(engine, twice, rows, engine.threat, (name, 0)).sum())
    advice = f"the attack has not converged: run it with more {option}"
    return verdict_of_nearest(
        name, count, len(rows), len(engine.y), str(twice), advice, f"robust accuracy is overstated, because {advice}"
    )


def _strongest(outcome: Outcome, option: str) -> int:
    """Return the number of the gradient attack with this option that leaves the fewest samples by itself.

    In a cascade, where each attack ran on the survivors of the others, this is the last such attack. Raises NotRun if there is
    none.
    """
    able = []
    for number, (attack, record) in enumerate(zip(outcome.attacks, outcome.records, strict=True)):
        traits, value = attack.traits, attack.options.get(option)
        if (
            traits.gradients and not traits.minimum_norm and not traits.universal
            and type(value) is int and value > 0 and not record.error
        ):  # fmt: skip
            able.append(number)
    if not able:
        raise NotRun(f"no gradient attack of the cascade that kept to the ball has the option {option}")
    left = {number: outcome.records[number].alone for number in able}
    return min(able, key=lambda number: (alone.accuracy if (alone := left[number]) else 0.0, -number))
