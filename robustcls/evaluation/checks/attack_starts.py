"""Whether attacks that begin from an adversarial image had one to begin from."""

from robustcls.evaluation.attacks import NamedAttack
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

NAME = "attack_starts"
LOST = 0.05  # share of the samples that an attack was run on


@check(120)
def attack_starts(engine: Engine, outcome: Outcome) -> Check | None:
    """Whether every sample had a start; nothing where no attack needs one, or it begins on a surrogate.

    Without one a sample was not attacked, and counts as robust unless another attack breaks it.
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
    what += ": the model named their class for all the images that it tried"
    if all(needing):
        advice = "add an attack that begins from the image itself, such as square"
        what += f"; nothing attacked them, so robust accuracy is overstated: {advice}"
        return Check(NAME, "fail" if share > LOST else "warn", share, LOST if share > LOST else 0.0, what)
    return Check(NAME, "warn", share, 0.0, f"{what}; the other attacks alone have tried them")


def _needs_start(attack: NamedAttack) -> bool:
    """By labels alone, from another image: gradients find their way from the image itself, too."""
    return attack.takes("others") and not attack.traits.gradients
