"""Images as a service receives them: each value a whole number of grey levels, of 255."""

import math
from typing import TYPE_CHECKING

from robustcls.core.errors import InputError
from robustcls.core.threat import BALL, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

LEVELS = 255
_TENTHS = (4, 3, 2, 1, 0)  # of a level, added to a change before it is cut to whole levels: rounding adds 5


def takes_eight_bits(model: "nn.Module", threat: ThreatModel) -> bool:
    """Whether examples count in 8 bits: the threat model says so, or the model sees nothing else, as one behind a service does
    (`eight_bits` of a module in it)."""
    return threat.eight_bit or any(getattr(module, "eight_bits", False) for module in model.modules())


def rounded(x: "Tensor") -> "Tensor":
    """The nearest whole levels; what is more than half a level outside [0, 1], or no number, stays so."""
    return (x * LEVELS).round() / LEVELS


def whole_levels(threat: ThreatModel) -> ThreatModel:
    """The ball as images in 8 bits fill it: of linf, the radius is the largest whole number of levels in it."""
    if threat.norm != "linf":
        return threat
    return threat.at(math.floor((threat.eps + BALL) * LEVELS) / LEVELS)


def note_on_levels(threat: ThreatModel) -> str:
    """What whoever attacks in 8 bits must know of the ball; "" where it is searched as it is. Raises InputError where it holds
    nothing but the image itself."""
    why = "examples count in 8 bits" if threat.eight_bit else "the model takes images in 8 bits"
    if threat.eps + BALL < 1 / LEVELS:  # in any norm: one level of one value
        raise InputError(
            f"`eps={threat.eps_text}` is less than a grey level, and {why}, of which none but the clean image lies in that "
            "ball: give 1/255 or more"
        )
    searched = whole_levels(threat)
    if abs(searched.eps - threat.eps) <= BALL:
        return ""
    return f"attacks search in {searched}, the whole grey levels within {threat}: {why}"


def rounded_inside(x_adv: "Tensor", x: "Tensor", threat: ThreatModel) -> "Tensor":
    """Adversarial images N,C,H,W in 8 bits: the nearest that stay in the ball around x, which is in 8 bits itself.

    Rounding to the nearest level may leave the ball by half a level. The changes of such an image are rounded towards x
    instead, by as little as suffices, and cut off, which never leaves it, in the end. An image outside the ball is rounded
    to the nearest levels, so that it stays what it was.
    """
    clean, change = (x * LEVELS).round(), (x_adv - x) * LEVELS
    found = rounded(x_adv)
    inside = threat.distance(x_adv, x) <= threat.eps + BALL
    for tenths in _TENTHS:
        left = inside & ~(threat.distance(found, x) <= threat.eps + BALL)
        if not left.any():
            break
        towards = (clean + (change.abs() + tenths / 10).floor() * change.sign()) / LEVELS
        found = towards.where(left.view(-1, 1, 1, 1), found)
    return found
