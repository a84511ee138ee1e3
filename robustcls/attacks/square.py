"""Square Attack: score-based random search over square windows (Andriushchenko et al. 2019, arXiv:1912.00049).

Differences from the authors' code, which AutoAttack also contains:

- Each sample draws its own square; in the authors' code all samples of a batch share one position.
- A square may reach the last row and column; in the authors' code it never does.
- l1, which the paper does not cover, is the l2 search followed by a soft threshold that leaves few pixels.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import Active, Restarts, at_most_left, per_sample
from robustcls.attacks._goal import Goal
from robustcls.core.draws import Draws, take
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

AHEAD = 32  # queries whose random numbers are drawn at once: one draw per query would cost more than the rest of it
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # query counts after which the square's area is halved


@traits(gradients=False, mask=True)
@torch.no_grad()
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    queries: int = 5000,
    p_init: float = 0.8,
    restarts: int = 1,
    look: int = 0,
    within: float = 1.0,
    early_stop: bool = True,
    start: Tensor | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Random search with squares, kept if they increase the margin loss (Andriushchenko et al. 2019, arXiv:1912.00049).

    p_init: share of the image that the first squares cover. restarts: number of searches, of which the closest to the goal is
    kept. look: after this many queries, and at each doubling of them, drop a sample if repeating the gain of the last doubling
    in every doubling to come would not suffice; 0: never. within: attack only samples that are close at `start`: at most this
    share remains of the way from the clean image to a misclassification, or to the target, by the DLR loss. early_stop: a
    sample leaves once it succeeds. start: N,C,H,W, where the first search begins for samples that are closer to the goal there
    than at the usual start; with look or within, a cascade gives the strongest attempt so far. target: N target classes.
    """
    if queries < 1 or restarts < 1 or not 0 < p_init <= 1 or look < 0 or not 0 < within <= 1:
        raise InputError(
            f"square(queries={queries}, p_init={p_init}, restarts={restarts}, look={look}, within={within}): give 1 query or "
            "more, 1 restart or more, 0 or more before a look, and shares in (0, 1]"
        )
    goal = Goal.of(y, target)
    if restarts > 1:
        runs = Restarts(model, x, goal, early_stop)
        for restart in range(restarts):
            rows = runs.left
            if len(rows) == 0:
                break
            x_adv = square(
                model, x[rows], y[rows], threat, queries=queries, p_init=p_init, look=look, within=within,
                early_stop=early_stop, start=None if start is None or restart > 0 else start[rows],
                target=None if target is None else target[rows], generator=take(generator, rows),
            )  # fmt: skip
            runs.add(x_adv)
        return runs.x_adv
    search, result, mark = _SEARCHES[threat.norm], x.clone(), max(look // 2, 1)
    a = _begin(model, x, threat, goal, search, start, generator)
    if within < 1 and start is not None:
        near = torch.isin(a.index, at_most_left(within, model, x, y, start, target))
        if not near.any():
            return result
        a.keep(near)
        generator = take(generator, near)
    for query in range(queries + 1):
        if query == 0:  # evaluates the starting point
            x_new, mass = a.x_adv, a.mass
        else:
            p = p_init / 2 ** bisect_left(HALVINGS, query - 1)
            side = round((p * x.shape[2] * x.shape[3]) ** 0.5)
            ahead = (query - 1) % AHEAD
            if ahead == 0:
                a.chance = Draws(a.x, generator).uniform(AHEAD, 5 + x.shape[1])
            x_new, mass = search.propose(a, threat.eps, side, a.chance[:, ahead])
            if threat.mask is not None:
                x_new = threat.restored(x_new, a.x)
                mass = _mass_of(x_new - a.x, search.order)
        logits = model(x_new)
        closeness = goal.closeness(logits, a.y)
        better = closeness > a.best
        a.x_adv, a.mass = torch.where(per_sample(better), x_new, a.x_adv), torch.where(better, mass, a.mass)
        a.best = torch.maximum(a.best, closeness)
        if early_stop and (closeness > 0).any():
            succeeded = goal.reached(logits, a.y)
            if a.drop(succeeded, into=result):
                generator = take(generator, ~succeeded)
        if look and query == mark:
            gain, doublings = a.best - a.before, math.log2(queries / query)
            hopeless = (a.best + gain * doublings < 0) & (query >= look)
            a.before, mark = a.best, 2 * mark
            a.x_adv = torch.where(per_sample(hopeless & (a.best <= a.clean)), a.x, a.x_adv)
            if a.drop(hopeless, into=result):
                generator = take(generator, ~hopeless)
        if len(a) == 0:
            break
    a.keep(a.best > a.clean)
    result[a.index] = a.x_adv
    return threat.project(result, x)


@dataclass(kw_only=True)
class _Active(Active):
    clean: Tensor  # N, how close x is to the goal
    best: Tensor  # N, how close x_adv is to the goal
    before: Tensor  # N, the value of `best` after half as many queries
    mass: Tensor  # N, the sum of |x_adv - x|^order: in l2 and l1 the part of the ball that is used up
    chance: Tensor  # N,AHEAD,5+C, uniform random numbers from 0 to 1 for the next AHEAD queries


class _Search(NamedTuple):
    begin: Callable[[Tensor, ThreatModel, Draws], Tensor]  # x, threat, draws -> the first x_adv
    propose: Callable[[_Active, float, int, Tensor], tuple[Tensor, Tensor]]  # a, eps, side, chance -> x_new, its mass
    order: int


def _begin(
    model: nn.Module,
    x: Tensor,
    threat: ThreatModel,
    goal: Goal,
    search: _Search,
    start: Tensor | None,
    generator: Generator | None,
) -> _Active:
    clean, x = goal.closeness(model(x), goal.labels), x.contiguous()
    x_adv = threat.restored(search.begin(x, threat, Draws(x, generator)), x)
    if start is not None:
        start = threat.project(start, x)
        closer = goal.closeness(model(start), goal.labels) > goal.closeness(model(x_adv), goal.labels)
        x_adv = torch.where(per_sample(closer), start, x_adv).contiguous()
    mass = _mass_of(x_adv - x, search.order)
    best, chance = torch.full_like(clean, -torch.inf), x.new_empty(len(x), 0)
    return _Active(x, goal.labels, x_adv, clean=clean, best=best, before=best, mass=mass, chance=chance)


def _stripes(x: Tensor, threat: ThreatModel, draws: Draws) -> Tensor:
    """Return x with vertical stripes, one pixel wide, of the lowest or highest values that ball and box allow."""
    up = draws.coins(x.shape[1], 1, x.shape[3])
    return torch.where(up, (x + threat.eps).clamp_max_(1), (x - threat.eps).clamp_min_(0))


def _recolour(a: _Active, eps: float, side: int, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Propose a square of one colour (Algorithm 2): each channel at its lowest or highest allowed value."""
    window = _window(a.x, max(side, 1), chance[:, :2])
    clean, up = a.x.take(window), chance[:, 5:, None] < 0.5
    coloured = torch.where(up, (clean + eps).clamp_max_(1), (clean - eps).clamp_min_(0))
    return a.x_adv.clone().put_(window, coloured), a.mass


def _tiles(x: Tensor, threat: ThreatModel, draws: Draws, order: int) -> Tensor:
    """Return x with a grid of about five by five humps of random signs, scaled to the surface of the ball."""
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
    return threat.project(x + delta * (threat.eps / size.clamp_min(1e-12)).clamp_min(1), x)


def _move_mass(a: _Active, eps: float, side: int, chance: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Propose to move the mass of two squares, and what the ball has left, into the first as a hump (Algorithm 3).

    Names follow the paper: nu = x_adv - x, the squares W1 and W2, rho. In l1 each channel of W1 gets the mass of all channels.
    chance: the positions of the two squares, whether the hump is transposed, and the sign of each channel.
    """
    side = min(max(side, 3) // 2 * 2 + 1, *a.x.shape[2:])
    w1, w2 = _window(a.x, side, chance[:, :2]), _window(a.x, side, chance[:, 2:4])
    x1, x2, x_new = a.x.take(w1), a.x.take(w2), a.x_adv.clone()
    nu1 = x_new.take(w1) - x1
    x_new.put_(w1, x1)
    nu2 = x_new.take(w2) - x2  # 0 where the squares overlap, since W1 was reset
    x_new.put_(w2, x2)
    held = _mass(nu1, order), _mass(nu2, order)  # N,C each
    unused = (eps**order - a.mass).clamp_min_(0) / a.x.shape[1]
    available = (held[0] + held[1] + unused[:, None]) ** (1 / order) * (a.x.shape[1] if order == 1 else 1)
    turned, rho = (chance[:, 4] < 0.5).long(), 2 * (chance[:, 5:, None] < 0.5).to(a.x.dtype) - 1
    shape = rho * _hump(side, order).to(a.x)[turned].flatten(1)[:, None]
    shape += nu1 / (held[0] ** (1 / order)).to(a.x.dtype).clamp_min(1e-12)[:, :, None]
    scale = available / (_mass(shape, order) ** (1 / order)).clamp_min(1e-12)
    new1 = torch.addcmul(x1, shape, scale.to(a.x.dtype)[:, :, None]).clamp_(0, 1)
    return x_new.put_(w1, new1), a.mass - (held[0] + held[1]).sum(1) + _mass(new1 - x1, order).sum(1)


def _move_sparsely(a: _Active, eps: float, side: int, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Move more mass than the l1 ball holds, then apply a soft threshold that brings it back, so that few pixels remain."""
    x_new, _ = _move_mass(a, eps, side, chance, order=1)
    delta = _shrink(x_new - a.x, eps)
    return a.x + delta, delta.flatten(1).abs().double().sum(1)


def _shrink(delta: Tensor, eps: float) -> Tensor:
    """Apply the soft threshold at which the absolute values add up to eps, found by Newton's method from below."""
    size, threshold = delta.abs(), torch.zeros_like(delta[:, :1, :1, :1])
    for _ in range(30):
        above = (size - threshold).clamp_min_(0)
        excess = above.sum((1, 2, 3), keepdim=True) - eps
        going = excess > 1e-5 * eps  # per sample, so that the result does not depend on the rest of the batch
        if not going.any():
            break
        step = excess / (above > 0).sum((1, 2, 3), keepdim=True).clamp_min(1)
        threshold = torch.where(going, threshold + step, threshold)
    return (size - threshold).clamp_min_(0).mul_(delta.sign())


def _mass_of(delta: Tensor, order: int) -> Tensor:
    return delta.flatten(1).double().abs().pow(order).sum(1)


def _mass(delta: Tensor, order: int) -> Tensor:
    return delta.double().abs().pow(order).sum(2)


@cache
def _hump(side: int, order: int) -> Tensor:
    """Return a hill next to a valley, with norm 1, and the same transposed: 2,side,side."""

    def hill(rows: int, columns: int) -> Tensor:
        rings = torch.arange(max(rows, columns) // 2 + 1)
        heights = (1.0 / (rings + 1) ** (2 * order)).flip(0).cumsum(0).flip(0)  # one per ring, from the centre outwards
        down, across = ((torch.arange(length) - length // 2).abs() for length in (rows, columns))
        return heights[torch.maximum(down[:, None], across)]

    hump = torch.cat([hill(side // 2, side), -hill(side - side // 2, side)])
    hump /= torch.linalg.vector_norm(hump, order)
    return torch.stack([hump, hump.T])


def _window(x: Tensor, side: int, place: Tensor) -> Tensor:
    """Return the indices into the flattened batch of one square per sample: N,C,side^2.

    place: N,2, the vertical and horizontal position, from 0 to 1.
    """
    n, c, h, w = x.shape
    side = min(side, h, w)
    corner = ((place[:, 0] * (h - side + 1)).long() * w + (place[:, 1] * (w - side + 1)).long()).view(n, 1, 1)
    planes = torch.arange(0, x.numel(), h * w, device=x.device).view(n, c, 1)
    cells = torch.arange(side, device=x.device)
    return planes + corner + (cells[:, None] * w + cells).flatten()


_SEARCHES = {
    "linf": _Search(_stripes, _recolour, order=1),
    "l2": _Search(partial(_tiles, order=2), partial(_move_mass, order=2), order=2),
    "l1": _Search(partial(_tiles, order=1), _move_sparsely, order=1),
}
