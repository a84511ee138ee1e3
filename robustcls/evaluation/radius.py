"""Whether the radius leaves anything to judge."""

from collections.abc import Sequence

from torch import Tensor

from robustcls.core import plugins
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from robustcls.evaluation.curve import reach
from robustcls.results.records import Check


def check_radius(x: Tensor, threat: ThreatModel, attacks: Sequence[str]) -> list[Check]:
    """A warning where the ball around every image holds uniform grey; none for attacks that need the whole box.

    No model can be robust there, and a radius in grey levels may have been meant. x: N,C,H,W. attacks: specs.
    """
    if any(traits_of(plugins.load("attack", spec)).unrestricted for spec in attacks):
        return []
    grey = reach(x, threat.norm)
    if threat.eps < grey or threat.eps == 0:
        return []
    what = (
        f"every image may become uniform grey within {threat}, so that no model can be robust: pixels are in [0, 1], and "
        "a radius in grey levels is written as 8/255"
    )
    return [Check("radius", "warn", threat.eps, grey, what)]
