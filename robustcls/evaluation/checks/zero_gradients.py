"""Whether the loss of samples has an input gradient."""

import torch
from torch import Tensor

from robustcls.core.gradients import input_gradient
from robustcls.core.losses import NO_ANSWER, cross_entropy, dlr
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import (
    ZERO_GRADIENTS,
    NotRun,
    check,
    is_differentiable,
    passive_rows,
    verdict,
)
from robustcls.evaluation.checks._wrappers import past_function, through_layer
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check


@check(10)
def zero_gradients(engine: Engine, outcome: Outcome) -> Check:
    """The share of samples whose loss has no input gradient, so that gradient attacks cannot move them.

    Samples for which the model predicts no class are skipped, because they count as misclassified already.
    """
    if not is_differentiable(engine.model):
        raise NotRun("the model gives no gradients: only attacks without them can evaluate it")
    rows = passive_rows(engine)
    rows = rows[outcome.clean[rows] != NO_ANSWER]
    if len(rows) == 0:
        raise NotRun("the model predicts no class for any of the images examined")

    def zero(rows: Tensor) -> Tensor:
        x, y = engine.x[rows].to(engine.device), engine.y[rows].to(engine.device)
        gradients = [input_gradient(engine.model, x, y, loss) for loss in (cross_entropy, dlr)]
        return torch.stack([gradient.flatten(1).abs().amax(1) == 0 for gradient in gradients])

    of_entropy, of_ratio = torch.cat(list(engine.parts.map(zero, rows)), 1)
    share, both = of_entropy.float().mean().item(), (of_entropy & of_ratio).float().mean().item()
    advice = "gradient attacks cannot move them, so robust accuracy is overstated: attack without gradients too"
    if share > ZERO_GRADIENTS and (past := through_layer(engine, rows) or (past_function(engine) if both == 1 else "")):
        advice += f", and past the layer: {past}"
    if both <= ZERO_GRADIENTS:
        advice = (
            "the logits are too large for float32, which the DLR loss does not mind: use apgd_t, or divide the logits"
        )
    return verdict(
        "zero_gradients",
        share,
        ZERO_GRADIENTS,
        f"{share:.1%} of {len(rows)} samples have no input gradient of the cross-entropy, {both:.1%} none of the DLR either",
        advice,
    )
