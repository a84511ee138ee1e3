"""Whether attacks without gradients break what gradient attacks left."""

import torch
from torch import Tensor

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import (
    FEW,
    NOTHING_LEFT,
    STANDARD,
    NotRun,
    broken_by_probe,
    check,
    compared_attacks,
    nearest,
    verdict_of_count,
    verdict_of_nearest,
)
from robustcls.evaluation.checks._wrappers import through_layer
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "black_box_wins"
# The probe: its forwards as a share of the cascade's passes; its samples, and the queries of each. There are more samples
# than the middle number where each has more queries than theirs, and fewer where each would have less than the least.
PROBE_SHARE, PROBED, QUERIES = 0.1, (8, 16, 100), (200, 700, 5000)
MASKED_A_LITTLE = "gradients may be masked a little: {}"
MASKED = "gradients are masked, or the gradient attacks too weak; robust accuracy is overstated: {}"


@check(60)
def black_box_wins(engine: Engine, outcome: Outcome) -> Check:
    """Whether attacks without gradients break samples that gradient attacks left, so that the gradients are misleading.

    If the cascade ran such attacks after the last gradient attack (or each attack alone), their result decides. Otherwise, or
    if these were only noise or a short run of Square and found little, a short probe of the survivors nearest to the boundary
    decides.
    """
    white = compared_attacks(engine, outcome)
    black = [
        number for number, record in enumerate(outcome.records)
        if not record.error and number not in white and (outcome.succeeded is not None or number > white[-1])
    ]  # fmt: skip
    if black:
        decided = _of_cascade(engine, outcome, white, black)
        # If noise, or a short run of Square, found little, this proves little.
        weak = [outcome.attacks[number].name == "noise" or outcome.attacks[number].continues for number in black]
        if decided.status == "fail" or not all(weak):
            return decided
    forwards = int(PROBE_SHARE * outcome.passes)
    fewer, more = forwards // QUERIES[0], forwards // QUERIES[1]
    most = min(max(fewer, PROBED[0]), PROBED[1]) if more < PROBED[1] else min(more, PROBED[2])
    rows = nearest(engine, outcome, outcome.robust.nonzero().squeeze(1), most)
    if len(rows) == 0:
        raise NotRun(NOTHING_LEFT)
    queries = min(max(forwards // len(rows), QUERIES[0]), QUERIES[2])
    # Small squares around the strongest attempts, and a shorter search from a new start, in case these are a dead end.
    probe = (
        ("noise(draws=4)", None),
        (f"square(queries={queries}, p_init=0.1)", outcome.x_adv),
        (f"square(queries={queries // 4})", None),
    )
    count, specs = broken_by_probe(NAME, engine, rows, probe)
    advice = _advice(engine, rows, count, STANDARD)
    return verdict_of_nearest(
        NAME, count, len(rows), len(engine.y), specs, MASKED_A_LITTLE.format(advice), MASKED.format(advice)
    )


def _advice(engine: Engine, rows: Tensor, count: int, otherwise: str) -> str:
    """Return the advice, with how to attack past a layer at which the samples' gradient ends. count: of samples broken."""
    past = through_layer(engine, rows[:FEW]) if count else ""
    return "; ".join(filter(None, (otherwise, past)))


def _of_cascade(engine: Engine, outcome: Outcome, white: list[int], black: list[int]) -> Check:
    if outcome.succeeded is not None:
        left = outcome.correct & ~outcome.succeeded[white].any(0)
        won = outcome.succeeded[black].any(0)
    else:
        won = torch.isin(outcome.breaker, torch.tensor(black))
        left = outcome.robust | won
    count, total = int(won[left].sum()), int(left.sum())
    if total == 0:
        raise NotRun(NOTHING_LEFT)
    names = " and ".join(outcome.names[number] for number in black)
    advice = _advice(engine, left.nonzero().squeeze(1), count, "more queries may break still more")
    return verdict_of_count(
        NAME, count, total, f"{names} broke {count} of {total} samples that gradient attacks left",
        MASKED_A_LITTLE.format(advice), MASKED.format(advice),
    )  # fmt: skip
