"""Whether attacks break samples at eps = 0."""

import torch

from robustcls.core.errors import InputError
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import FEW, NotRun, broken, check, correct_rows
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.results.records import Check

NAME = "eps_zero"
SHORT = {"steps": 5, "queries": 20, "restarts": 1, "targets": 1, "draws": 2}  # only the radius matters


@check(280, thorough=True)
def eps_zero(engine: Engine, outcome: Outcome) -> Check:
    """Whether shortened attacks break any sample at eps = 0, where only the clean image is allowed."""
    rows, ball = correct_rows(engine, outcome, FEW), engine.threat.at(0)
    success, tried, skipped = torch.zeros(len(rows), dtype=torch.bool), 0, ""
    for number, attack in enumerate(outcome.attacks):
        try:
            success |= broken(engine, attack.bounded(SHORT, min), rows, ball, (NAME, number))
            tried += 1
        except (AttackError, InputError) as failure:
            skipped = f"{attack.name}: {failure}"
    if not tried:
        raise NotRun(f"no attack of the cascade runs at eps = 0 ({skipped})")
    count = int(success.sum())
    what = f"{count} of {len(rows)} samples were broken at eps = 0 by {tried} of {len(outcome.attacks)} attacks"
    advice = (
        "the model does not repeat its own prediction on a clean image: make it deterministic and independent of the batch, "
        "because every number here is off by as much"
    )
    return Check(NAME, "fail" if count else "pass", count / len(rows), 0.0, f"{what}; {advice}" if count else what)
