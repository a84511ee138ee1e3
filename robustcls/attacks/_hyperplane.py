"""The shortest perturbation from a point of the box [0, 1] to a hyperplane, within the box.

Each pixel can move until it reaches 0 or 1; this distance is its `room`. In linf all pixels move equally far, and in l2 in
proportion to their weight, until each has used its room. In l1 the pixels with the largest weight move first, each by its
whole room; in l0 those with the largest weight times room.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

_PASSES = 50  # an upper limit: Newton's method needs about five, and no pass overshoots the solution


def to_hyperplane(norm: str, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Return the delta of smallest norm with w . (x + delta) = b and x + delta in [0, 1], or the one closest to that: N,D.

    x: N,D in [0, 1]; w: N,D; b: N.
    """
    lack = b - torch.linalg.vecdot(w, x)
    heading = (w * lack.sign()[:, None]).sign_()
    room = heading.clamp_min(0).addcmul_(heading, x, value=-1)  # 1 - x upwards, x downwards, 0 without a weight
    return _MOVES[norm](w.abs(), room, lack.abs()).mul_(heading)


def _together(weight: Tensor, room: Tensor, lack: Tensor, speed: Callable[[Tensor], Tensor]) -> Tensor:
    """Move each pixel at its own speed for the same time, until weight . min(time * speed, room) = lack: N,D.

    The left side is concave in time, so Newton's method started below the solution stays below it, and it reaches the
    solution exactly once no further pixel uses up its room.
    """
    speed_of, tiny = speed(weight), torch.finfo(lack.dtype).tiny
    rate = weight * speed_of
    time = (lack / (rate * (room > 0)).sum(1).clamp_min(tiny)).clamp_max_(torch.finfo(lack.dtype).max)  # inf * 0 is NaN
    for _ in range(_PASSES):
        way = time[:, None] * speed_of
        missing = lack - torch.linalg.vecdot(weight, torch.minimum(way, room))
        slope = torch.linalg.vecdot(rate, (way < room).to(rate.dtype))
        step = torch.where(slope > 0, missing / slope.clamp_min(tiny), 0)
        going = step > 1e-6 * time  # per sample, so that the result does not depend on the rest of the batch
        if not going.any():
            break
        time = torch.where(going, time + step, time)
    return torch.minimum(time[:, None] * speed_of, room)


def _l1(weight: Tensor, room: Tensor, lack: Tensor) -> Tensor:
    """Move the pixels with the largest weights, each by its whole room, until the hyperplane is reached: N,D.

    Usually few pixels suffice, so only as many weights are sorted as the sample that needs most requires. If the hyperplane
    is out of reach, every pixel moves by its whole room.
    """
    beyond = lack >= torch.linalg.vecdot(weight, room) * (1 - 1e-6)
    goal = torch.where(beyond, 0, lack)
    count, pixels = min(32, weight.shape[1]), weight.shape[1]
    while True:
        top, index = weight.topk(count, dim=1)
        space = room.gather(1, index)
        gain = (top * space).cumsum(1)
        if count == pixels or (gain[:, -1] >= goal).all():
            break
        count = min(4 * count, pixels)
    still = goal[:, None] - gain + top * space
    way = torch.minimum((still / top.clamp_min(torch.finfo(top.dtype).tiny)).clamp_min_(0), space)
    return torch.where(beyond[:, None], room, torch.zeros_like(weight).scatter_(1, index, way))


def _l0(weight: Tensor, room: Tensor, lack: Tensor) -> Tensor:
    gain, index = (weight * room).sort(dim=1, descending=True)
    missing = lack[:, None] - gain.cumsum(1) + gain
    way = (missing / weight.gather(1, index).clamp_min(torch.finfo(weight.dtype).tiny)).clamp_min_(0)
    return torch.zeros_like(room).scatter_(1, index, torch.minimum(way, room.gather(1, index)))


_MOVES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linf": partial(_together, speed=torch.ones_like),
    "l2": partial(_together, speed=torch.clone),
    "l1": _l1,
    "l0": _l0,
}
