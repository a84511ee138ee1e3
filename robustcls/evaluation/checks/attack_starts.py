"""Whether attacks that need an adversarial image as a starting point had one."""

from robustcls.evaluation.attacks import NamedAttack
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "attack_starts"
LOST = 0.05  # share of the samples that an attack was run on


@check(120)
def attack_starts(engine: Engine, outcome: Outcome) -> Check | None:
    """Whether every sample had a starting point. None if no attack needs one, or the attacks run on a surrogate.

    A sample without a starting point was not attacked, and counts as robust unless another attack breaks it.
    """
    if engine.subject.surrogate is not None:
        return None
    needing = [_needs_start(attack) for attack in outcome.attacks]
    lacking = {
        record.name: (int((outcome.nearest[record.name].isnan() & outcome.robust).sum()), record.attacked)
        for record, needs in zip(outcome.records, needing, strict=True)
        if needs and not record.error
    }
    if not lacking:
        return None
    name, (count, tried) = max(lacking.items(), key=lambda item: item[1][0])
    share = count / max(tried, 1)
    what = f"{name} had no start for {count} of {tried} samples that count as robust"
    if not count:
        return Check(NAME, "pass", 0.0, 0.0, what)
    what += ": the model predicted their label for all the images that it tried"
    if all(needing):
        advice = "add an attack that begins from the image itself, such as square"
        what += f"; no attack ran on them, so robust accuracy is overstated: {advice}"
        return Check(NAME, "fail" if share > LOST else "warn", share, LOST if share > LOST else 0.0, what)
    return Check(NAME, "warn", share, 0.0, f"{what}; only the other attacks ran on them")


def _needs_start(attack: NamedAttack) -> bool:
    """Whether the attack must start from an adversarial image: only those without gradients must."""
    return attack.takes("others") and not attack.traits.gradients
