"""Survivors of a cascade, the nearest to the boundary first: what an attack just missed is among them."""

from torch import Tensor

from robustcls.core.losses import margin
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import Engine
from robustcls.runtime.predict import predict


def nearest(engine: Engine, outcome: Outcome, among: Tensor, most: int) -> Tensor:
    """At most `most` of these samples (indices), in order: those whose strongest attempt came closest to another class.

    By the margin, which ranks what other attacks break far higher than the difference of logits ratio does.
    """
    if len(among) <= most:
        return among
    logits = predict(engine.judge, outcome.x_adv[among], engine.parts)
    return among[margin(logits, engine.y[among]).argsort(descending=True, stable=True)[:most]].sort().values
