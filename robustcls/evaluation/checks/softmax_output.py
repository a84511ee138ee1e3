"""Whether the model's outputs are probabilities instead of logits."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check, passive_rows, verdict
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check


@check(20)
def softmax_output(engine: Engine, outcome: Outcome) -> Check:
    """Whether the outputs look like probabilities, on which the attacks' losses have vanishing gradients."""
    logits = engine.logits[passive_rows(engine)]
    looks = (logits.min() >= 0) & ((logits.sum(1) - 1).abs() < 1e-4).all()
    if logits.shape[1] == 2:  # a sigmoid output z for two classes arrives here as -z/2 and z/2
        looks |= (logits.sum(1) == 0).all() & (logits[:, 1] >= 0).all() & (logits[:, 1] <= 0.5).all()
    what = "outputs look like probabilities" if looks else "outputs are not probabilities"
    return verdict(
        "softmax_output", float(looks), 0.5, what, "the losses expect logits: give the model without its softmax"
    )
