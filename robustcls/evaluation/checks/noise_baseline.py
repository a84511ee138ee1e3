"""Whether random noise breaks samples that gradient attacks left."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import (
    NONE_USED,
    NOTHING_LEFT,
    NotRun,
    broken,
    check,
    correct_rows,
    gradient_attacks,
    need_gradients,
    spread,
    verdict_of_count,
)
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "noise_baseline"
SPEC = "noise(draws=10)"


@check(300, thorough=True)
def noise_baseline(engine: Engine, outcome: Outcome) -> Check:
    """Whether random noise of the same norm breaks samples that the gradient attacks left."""
    need_gradients(engine)
    if not (white := gradient_attacks(outcome)):
        raise NotRun(NONE_USED)
    if outcome.succeeded is not None:
        left = outcome.correct & ~outcome.succeeded[white].any(0)
    else:
        left = outcome.robust | (outcome.breaker > white[-1])
    correct_rows(engine, outcome)
    rows = spread(engine, left.nonzero().squeeze(1))
    if len(rows) == 0:
        raise NotRun(NOTHING_LEFT)
    count = int(broken(engine, SPEC, rows, engine.threat, (NAME, 0)).sum())
    advice = "use more steps and restarts, and attacks without gradients"
    return verdict_of_count(
        NAME, count, len(rows), f"{SPEC} broke {count} of {len(rows)} samples that gradient attacks left",
        f"the attacks are weak: {advice}",
        f"the attacks are weaker than chance, so robust accuracy is overstated: {advice}",
    )  # fmt: skip
