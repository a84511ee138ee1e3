"""8-bit images, as a service receives them: each value is a whole number of grey levels, of 255."""

import math
from typing import TYPE_CHECKING

from robustcls.core.errors import InputError
from robustcls.core.threat import BALL, ThreatModel

if TYPE_CHECKING:
    from torch import Tensor, nn

LEVELS = 255
_TENTHS = (4, 3, 2, 1, 0)  # tenths of a level that are added before truncation to whole levels; 5 would be rounding


def takes_eight_bits(model: "nn.Module", threat: ThreatModel) -> bool:
    """Whether examples are rounded to 8 bits, because of the threat model or because the model accepts only 8-bit images.

    The latter is true for a service (attribute `eight_bits` of one of its modules).
    """
    return threat.eight_bit or any(getattr(module, "eight_bits", False) for module in model.modules())


def rounded(x: "Tensor") -> "Tensor":
    """Round to the nearest grey levels. Values that are more than half a level outside [0, 1], or NaN, stay invalid."""
    return (x * LEVELS).round() / LEVELS


def whole_levels(threat: ThreatModel) -> ThreatModel:
    """Return the part of the ball that 8-bit images can reach: for linf, the radius is rounded down to whole grey levels."""
    if threat.norm != "linf":
        return threat
    return threat.at(math.floor((threat.eps + BALL) * LEVELS) / LEVELS)


def note_on_levels(threat: ThreatModel) -> str:
    """Return a note on the ball in which 8-bit attacks search; "" if it is the ball of the threat model.

    Raises InputError if the ball contains no 8-bit image but the clean one.
    """
    why = "examples count in 8 bits" if threat.eight_bit else "the model takes images in 8 bits"
    if threat.eps + BALL < 1 / LEVELS:  # the smallest change, in any norm: one level of one value
        raise InputError(
            f"`eps={threat.eps_text}` is less than a grey level, and {why}, of which none but the clean image lies in that "
            "ball: give 1/255 or more"
        )
    searched = whole_levels(threat)
    if abs(searched.eps - threat.eps) <= BALL:
        return ""
    return f"attacks search in {searched}, the whole grey levels within {threat}: {why}"


def rounded_inside(x_adv: "Tensor", x: "Tensor", threat: ThreatModel) -> "Tensor":
    """Round adversarial images N,C,H,W to 8 bits so that they stay in the ball around x, which is an 8-bit image itself.

    Rounding to the nearest level may leave the ball by half a level. The changes of such an image are rounded towards x
    instead, in steps until the image is inside; the last step truncates them, which never leaves the ball. An image that was
    outside the ball is rounded to the nearest levels and stays outside.
    """
    clean, change = (x * LEVELS).round(), (x_adv - x) * LEVELS
    result = rounded(x_adv)
    inside = threat.distance(x_adv, x) <= threat.eps + BALL
    for tenths in _TENTHS:
        left = inside & ~(threat.distance(result, x) <= threat.eps + BALL)
        if not left.any():
            break
        towards = (clean + (change.abs() + tenths / 10).floor() * change.sign()) / LEVELS
        result = towards.where(left.view(-1, 1, 1, 1), result)
    return result
