"""Whether the radius leaves anything to measure."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check
from robustcls.evaluation.curves import reach
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check


@check(110)
def radius(engine: Engine, outcome: Outcome) -> Check | None:
    """A warning where the ball around every image holds uniform grey; none for attacks that need the whole box, or in a mask.

    No model can be robust there, and a radius in grey levels may have been meant.
    """
    if engine.threat.mask is not None or any(attack.traits.unrestricted for attack in outcome.attacks):
        return None
    grey, eps = reach(engine.x, engine.threat.norm), engine.threat.eps
    if eps < grey or eps == 0:
        return None
    what = (
        f"every image may become uniform grey within {engine.threat}, so that no model can be robust: pixels are in "
        "[0, 1], and a radius in grey levels is written as 8/255"
    )
    return Check("radius", "warn", eps, grey, what)
