"""Whether attacks that begin from an adversarial image had one to begin from."""

from collections.abc import Callable, Sequence

from torch import Tensor

from robustcls.core import plugins
from robustcls.core.traits import takes, traits_of
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check

LOST = 0.05  # share of the samples that an attack met


def check_starts(engine: Engine, outcome: Outcome, attacks: Sequence[str]) -> list[Check]:
    """Whether every sample had a start; nothing where no attack needs one, or it begins on a surrogate.

    Without one a sample was not attacked, and counts as robust unless another attack breaks it.
    """
    if engine.crafts_elsewhere:
        return []
    needing = [_needs_start(plugins.load("attack", spec)) for spec in attacks]
    standing = outcome.standing(engine.y)
    lacking = {
        record.name: (int((outcome.nearest[record.name].isnan() & standing).sum()), record.attacked)
        for record, needs in zip(outcome.attacks, needing, strict=True)
        if needs and not record.error
    }
    if not lacking:
        return []
    name, (count, met) = max(lacking.items(), key=lambda item: item[1][0])
    share = count / max(met, 1)
    what = f"{name} had no start for {count} of {met} samples that count as robust"
    if not count:
        return [Check("attack_starts", "pass", 0.0, 0.0, what)]
    mend = "add an attack that begins from the image itself, such as square"
    what += ": the model named their class for all the images that it tried"
    if all(needing):
        what += f"; nothing attacked them, so robust accuracy is overstated: {mend}"
        return [Check("attack_starts", "fail" if share > LOST else "warn", share, LOST if share > LOST else 0.0, what)]
    return [Check("attack_starts", "warn", share, 0.0, f"{what}; the other attacks alone have tried them")]


def _needs_start(attack: Callable[..., Tensor]) -> bool:
    """By labels alone, from another image: gradients find their way from the image itself, too."""
    return takes(attack, "others") and not traits_of(attack).gradients
