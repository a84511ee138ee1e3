"""Whether the radius is so large that no model can be robust."""

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check
from robustcls.evaluation.curves import reach
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Check


@check(110)
def radius(engine: Engine, outcome: Outcome) -> Check | None:
    """A warning if the ball around every image contains uniform grey, so that no model can be robust.

    Perhaps a radius in grey levels was meant. None for attacks that need the whole box, and with a mask.
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
