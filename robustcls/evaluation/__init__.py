"""Clean and robust accuracy, with what a reader needs to believe them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from robustcls.core.threat import ThreatModel
    from robustcls.results.records import Evaluation


def evaluate(
    model: "nn.Module",
    images: "Tensor",
    labels: "Tensor",
    threat: "ThreatModel",
    suite: str | None = None,
    attacks: Sequence[str] | None = None,
    *,
    batch_size: int | str = "auto",
    precision: str = "auto",
    alone: bool = False,
    seed: int = 0,
    name: str = "",
    positive: str | int | None = None,
) -> "Evaluation":
    """Clean and robust accuracy of a model under a cascade of attacks; robust accuracy is an upper bound.

    model: any nn.Module on [0, 1] pixels, on any device and in any mode; it is left exactly as it was. Where it gives
    a mapping, a tuple, an object with `.logits`, or one logit for two classes, a warning says which part was used. images:
    float N,C,H,W in [0, 1]. labels: N. suite: `fast` (the default), or attacks: specs such as `pgd(steps=20)`, run in order on
    the samples that are still right; with `alone` each meets every sample. positive: where the labels are of two classes,
    the one that sensitivity is about, by its label or the model's name for it; the second unless given. Raises InputError.
    """
    from robustcls.core.errors import InputError
    from robustcls.evaluation.judge import describe_model, judge, suite_attacks

    if suite is not None and attacks is not None:
        raise InputError("both a suite and attacks were given: give one")
    if isinstance(attacks, str):
        attacks = [attacks]
    kind = ", ".join(attacks) if attacks is not None else suite or "fast"
    chosen = attacks if attacks is not None else suite_attacks(suite or "fast", threat.norm)
    judged = judge(
        model, images, labels, threat, chosen,
        kind=kind, batch_size=batch_size, precision=precision, alone=alone, seed=seed,
        positive=positive,
    )  # fmt: skip
    if name:
        judged.evaluation.model = describe_model(
            model, name, num_classes=judged.outcome.num_classes, note=judged.evaluation.model.note
        )
    return judged.evaluation
