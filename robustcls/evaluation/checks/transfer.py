"""Whether another model's adversarial examples break samples that a white-box attack does not."""

from dataclasses import replace

import torch

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import (
    NotRun,
    broken,
    check,
    correct_rows,
    is_differentiable,
    spread,
    verdict_of_count,
)
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "transfer"
SPEC = "pgd(steps=20)"


@check(290, thorough=True)
def transfer(engine: Engine, outcome: Outcome) -> Check:
    """Whether PGD on the model itself leaves samples that the other model's examples broke: a sign of masked gradients."""
    if engine.subject.surrogate is None:
        raise NotRun("no adversarial examples of another model were tried; give --transfer-from")
    if not is_differentiable(engine.model):
        raise NotRun("the model gives no gradients, so there is no white-box attack to compare with")
    if engine.threat.is_whole_box:
        raise NotRun("every image is allowed, so anything breaks it")
    correct_rows(engine, outcome)
    rows = spread(engine, outcome.success.nonzero().squeeze(1))
    if len(rows) == 0:
        raise NotRun("the examples of the other model broke nothing, so there is nothing to compare")
    white = Engine(replace(engine.subject.take(rows), surrogate=None), engine.batch_size, seed=engine.seed)
    missed = int((~broken(white, SPEC, torch.arange(len(rows)), engine.threat, (NAME, 0))).sum())
    advice = "attack this model without gradients too"
    return verdict_of_count(
        NAME, missed, len(rows),
        f"of {len(rows)} samples that the other model's examples broke, {SPEC} on this model leaves {missed}",
        f"a white-box attack should be the stronger one: {advice}",
        f"gradients of this model are masked, so its white-box robust accuracy is overstated: {advice}",
    )  # fmt: skip
