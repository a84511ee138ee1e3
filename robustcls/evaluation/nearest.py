"""Survivors of a cascade, the nearest to the boundary first: what an attack just missed is among them."""

from torch import Tensor

from robustcls.core.losses import dlr
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import Engine
from robustcls.runtime.predict import predict


def nearest(engine: Engine, outcome: Outcome, among: Tensor, most: int) -> Tensor:
    """At most `most` of these samples (indices), in order: those whose strongest attempt came closest to another class.

    By the difference of logits ratio, which has no scale, so that samples can be compared.
    """
    if len(among) <= most:
        return among
    logits = predict(engine.judge, outcome.x_adv[among], engine.parts)
    closeness = dlr(logits, engine.y[among])
    return among[closeness.argsort(descending=True, stable=True)[:most]].sort().values
