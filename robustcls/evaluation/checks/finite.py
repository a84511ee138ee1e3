"""Whether the model's outputs and the attacks' attempts are finite."""

from robustcls.core.losses import NO_ANSWER
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import NOTHING_CORRECT, NotRun, check, verdict, verdict_of_share
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

__all__ = ["finite_attempts", "finite_output"]

NOTHING_ATTEMPTED = "no attack ran to the end"
LOST = 0.05  # share of an attack's attempts above which the check fails


@check(80)
def finite_output(engine: Engine, outcome: Outcome) -> Check:
    """Whether the model predicted a class for every image; without a prediction, an image counts as misclassified."""
    clean, attempts = int(((outcome.clean == NO_ANSWER) & ~engine.rejected).sum()), outcome.unanswered
    return verdict(
        "finite_output",
        float(clean + attempts),
        0.5,
        f"{clean} clean images and {attempts} attempts gave logits that are not numbers",
        "each counts as misclassified: fix the model, or clamp what overflows",
    )


@check(100)
def finite_attempts(engine: Engine, outcome: Outcome) -> Check:
    """Whether every attempt of every attack is finite. An attempt with NaN breaks nothing: its sample was not attacked."""
    lost, tried = (sum(part[i] for part in outcome.lost) for i in (0, 1))
    shares = [(part / of, name) for (part, of), name in zip(outcome.lost, outcome.names, strict=True) if of]
    if not tried:
        raise NotRun(NOTHING_ATTEMPTED if outcome.correct.any() else NOTHING_CORRECT)
    share, worst = max(shares)
    what = f"{lost} of {tried} attempts hold values that are not finite"
    advice = (
        "they do not count, so robust accuracy is overstated unless another attack breaks these samples: fix the attack"
    )
    if lost:
        what += f", most of them {share:.1%} of {worst}'s"
    return verdict_of_share("finite_attempts", share, (0.0, LOST), what, advice, advice)
