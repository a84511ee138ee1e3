"""Square Attack: random search over square windows, which needs nothing of the model but its logits.

Each sample tries a square of its own. Only the window is read and written: a query costs little beside its forward pass.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._survivors import is_fooled, keep, per_sample
from robustcls.core.draws import Draws, take
from robustcls.core.errors import InputError
from robustcls.core.losses import margin
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

AHEAD = 32  # queries whose random numbers are drawn at once: one by one they would cost more than the rest of a query
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # after so many queries the square's area halves
_ORDERS = {"l2": 2, "l1": 1}  # of the norms whose search counts the mass that a sample has moved
State = dict[str, Tensor]
Settle = Callable[[Tensor], None]  # told which samples keep their change


@traits(gradients=False)
@torch.no_grad()
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 5000,
    p_init: float = 0.8,
    early_stop: bool = True,
    start: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Squares at random places, kept where the margin grows (Andriushchenko et al. 2019, arXiv:1912.00049).

    p_init: the first squares' share of the image. early_stop: a sample leaves once it is fooled. start: N,C,H,W, where the
    search begins for a sample whose margin is larger there than at the usual start.
    """
    if queries < 1 or not 0 < p_init <= 1:
        raise InputError(f"square(queries={queries}, p_init={p_init}): give 1 query or more and a share in (0, 1]")
    begin, propose = _SEARCHES[threat.norm]
    result, area = x.clone(), x.shape[2] * x.shape[3]
    s = {"index": torch.arange(len(x), device=x.device), "x": x.contiguous(), "y": y, "clean": margin(model(x), y)}
    s |= begin(s["x"], threat, Draws(x, generator))
    if start is not None:
        s |= _from_nearer(model, s, threat.project(start, s["x"]), _ORDERS.get(threat.norm))
    for query in range(queries + 1):
        if query > 0:  # the first looks at the start alone
            side = round((p_init / 2 ** bisect_left(HALVINGS, query - 1) * area) ** 0.5)
            ahead = (query - 1) % AHEAD
            if ahead == 0:
                s["chance"] = Draws(s["x"], generator).uniform(AHEAD, 5 + x.shape[1])
            settle = propose(s, threat.eps, side, s["chance"][:, ahead])
        logits = model(s["x_adv"])
        gap = margin(logits, s["y"])
        if query == 0:
            s["best"] = gap
        else:
            settle(gap > s["best"])
            s["best"] = torch.maximum(s["best"], gap)
        if early_stop and (gap > 0).any() and (fooled := is_fooled(logits, s["y"])).any():
            result[s["index"][fooled]] = s["x_adv"][fooled]
            s, generator = keep(s, ~fooled), take(generator, ~fooled)
            if len(s["y"]) == 0:
                break
    gained = s["best"] > s["clean"]
    result[s["index"][gained]] = s["x_adv"][gained]
    return threat.project(result, x)


def _from_nearer(model: nn.Module, s: State, start: Tensor, order: int | None) -> State:
    """Where the search begins, if for the samples whose margin is larger at `start` it begins there."""
    nearer = margin(model(start), s["y"]) > margin(model(s["x_adv"]), s["y"])
    moved = {"x_adv": torch.where(per_sample(nearer), start, s["x_adv"]).contiguous()}
    if order is not None:
        moved["mass"] = (moved["x_adv"] - s["x"]).flatten(1).double().abs().pow(order).sum(1)
    return moved


def _stripes(x: Tensor, threat: ThreatModel, draws: Draws) -> State:
    """Vertical stripes, one pixel wide, of the lowest and the highest values that the ball and the box allow."""
    low, high = (x - threat.eps).clamp_min_(0), (x + threat.eps).clamp_max_(1)
    up = draws.coins(x.shape[1], 1, x.shape[3])
    return {"low": low, "high": high, "x_adv": torch.where(up, high, low)}


def _recolour(s: State, eps: float, side: int, chance: Tensor) -> Settle:
    """A square of one colour: each channel at its lowest or at its highest. chance: N,5+C, from 0 to 1, as below."""
    x_adv = s["x_adv"]
    window, up = _window(x_adv, max(side, 1), chance[:, :2]), chance[:, 5:, None] < 0.5
    old, new = x_adv.take(window), torch.where(up, s["high"].take(window), s["low"].take(window))
    x_adv.put_(window, new)

    def settle(better: Tensor) -> None:
        x_adv.put_(window, torch.where(better.view(-1, 1, 1), new, old))

    return settle


def _tiles(x: Tensor, threat: ThreatModel, draws: Draws, order: int) -> State:
    """Some five by five humps of random signs side by side, as far as the ball allows."""
    n, c, h, w = x.shape
    side = max(min(h, w) // 5, 1)
    rows, columns = h // side, w // side
    turned = draws.coins(rows, columns).long()
    sign = draws.coins(c, rows, columns, 1, 1).to(x.dtype).mul_(2).sub_(1)
    humps = sign * _hump(side, order).to(x)[turned][:, None]
    delta, top, left = torch.zeros_like(x), (h - rows * side) // 2, (w - columns * side) // 2
    tiled = humps.transpose(3, 4).reshape(n, c, rows * side, columns * side)
    delta[:, :, top : top + rows * side, left : left + columns * side] = tiled
    size = torch.linalg.vector_norm(delta.flatten(1), order, dim=1).view(-1, 1, 1, 1)
    x_adv = threat.project(x + delta * (threat.eps / size.clamp_min(1e-12)).clamp_min(1), x)
    return {"x_adv": x_adv, "mass": (x_adv - x).flatten(1).double().abs().pow(order).sum(1)}


def _move_mass(s: State, eps: float, side: int, chance: Tensor, order: int) -> Settle:
    """What two squares hold, and what the ball has left, goes to the first of them, in the shape of a hump.

    mass: N, the sum of |delta|^order of each sample. In l1 each channel of the square gets what all hold together.
    chance: the places of the two, whether the hump is turned, and the sign of each channel.
    """
    x, x_adv = s["x"], s["x_adv"]
    side = min(max(side, 3) // 2 * 2 + 1, *x.shape[2:])
    to, source = _window(x, side, chance[:, :2]), _window(x, side, chance[:, 2:4])
    at_to, at_source = x.take(to), x.take(source)
    old_to = x_adv.take(to)
    x_adv.put_(to, at_to)  # where the squares overlap, the second is empty now
    old_source = x_adv.take(source)
    x_adv.put_(source, at_source)
    held = _mass(old_to - at_to, order), _mass(old_source - at_source, order)  # N,C each
    spare = (eps**order - s["mass"]).clamp_min_(0) / x.shape[1]
    height = (held[0] + held[1] + spare[:, None]) ** (1 / order) * (x.shape[1] if order == 1 else 1)
    turned, sign = (chance[:, 4] < 0.5).long(), (chance[:, 5:, None] < 0.5).to(x.dtype)
    shape = (2 * sign - 1) * _hump(side, order).to(x)[turned].flatten(1)[:, None]
    shape += (old_to - at_to) / (held[0] ** (1 / order)).to(x.dtype).clamp_min(1e-12)[:, :, None]
    scale = height / (_mass(shape, order) ** (1 / order)).clamp_min(1e-12)
    new_to = torch.addcmul(at_to, shape, scale.to(x.dtype)[:, :, None]).clamp_(0, 1)
    x_adv.put_(to, new_to)
    mass = s["mass"] - (held[0] + held[1]).sum(1) + _mass(new_to - at_to, order).sum(1)

    def settle(better: Tensor) -> None:
        stay = better.view(-1, 1, 1)
        x_adv.put_(source, torch.where(stay, at_source, old_source))
        x_adv.put_(to, torch.where(stay, new_to, old_to))
        s["mass"] = torch.where(better, mass, s["mass"])

    return settle


def _move_sparsely(s: State, eps: float, side: int, chance: Tensor) -> Settle:
    """Moves more mass than the ball holds, then takes the same from every pixel that has it: few pixels remain."""
    before = s["x_adv"].clone()
    _move_mass(s, eps, side, chance, order=1)
    delta = _shrink(s["x_adv"] - s["x"], eps)
    mass = delta.flatten(1).abs().double().sum(1)
    torch.add(s["x"], delta, out=s["x_adv"])

    def settle(better: Tensor) -> None:
        s["x_adv"].copy_(torch.where(per_sample(better), s["x_adv"], before))
        s["mass"] = torch.where(better, mass, s["mass"])

    return settle


def _shrink(delta: Tensor, eps: float) -> Tensor:
    """Soft-thresholded so that the sizes add up to eps: Newton's method on a convex function, from the left."""
    size, threshold = delta.abs(), torch.zeros_like(delta[:, :1, :1, :1])
    for _ in range(30):
        above = (size - threshold).clamp_min_(0)
        excess = above.sum((1, 2, 3), keepdim=True) - eps
        going = excess > 1e-5 * eps  # each to its own end, whatever the others take
        if not going.any():
            break
        step = excess / (above > 0).sum((1, 2, 3), keepdim=True).clamp_min(1)
        threshold = torch.where(going, threshold + step, threshold)
    return (size - threshold).clamp_min_(0).mul_(delta.sign())


def _mass(delta: Tensor, order: int) -> Tensor:
    return delta.double().abs().pow(order).sum(2)


@cache
def _hump(side: int, order: int) -> Tensor:
    """A hill beside a valley, of norm 1, and the same turned: 2,side,side. Each is steepest in its middle."""

    def hill(rows: int, columns: int) -> Tensor:
        rings = torch.arange(max(rows, columns) // 2 + 1)
        heights = (1.0 / (rings + 1) ** (2 * order)).flip(0).cumsum(0).flip(0)  # of the rings from the middle outwards
        down, across = ((torch.arange(length) - length // 2).abs() for length in (rows, columns))
        return heights[torch.maximum(down[:, None], across)]

    hump = torch.cat([hill(side // 2, side), -hill(side - side // 2, side)])
    hump /= torch.linalg.vector_norm(hump, order)
    return torch.stack([hump, hump.T])


def _window(x: Tensor, side: int, place: Tensor) -> Tensor:
    """Where in the flat batch a square of each sample lies: N,C,side^2. place: N,2, from 0 to 1, down and across."""
    n, c, h, w = x.shape
    side = min(side, h, w)
    corner = ((place[:, 0] * (h - side + 1)).long() * w + (place[:, 1] * (w - side + 1)).long()).view(n, 1, 1)
    planes = torch.arange(0, x.numel(), h * w, device=x.device).view(n, c, 1)
    cells = torch.arange(side, device=x.device)
    return planes + corner + (cells[:, None] * w + cells).flatten()


_SEARCHES: dict[str, tuple[Callable[..., State], Callable[..., Settle]]] = {
    "linf": (_stripes, _recolour),
    "l2": (partial(_tiles, order=2), partial(_move_mass, order=2)),
    "l1": (partial(_tiles, order=1), _move_sparsely),
}
