"""Glass blur: a frosted window."""

import torch
from scipy.ndimage import gaussian_filter
from torch import Generator, Tensor

from robustcls.corruptions._severity import strength


def glass_blur(x: Tensor, severity: int, *, generator: Generator) -> Tensor:
    """Blurs, lets every pixel take the place of a near one, and blurs again.

    The published loop means to swap two pixels but overwrites the one by the other; so does this.
    """
    deviation, reach, rounds = strength(
        x,
        severity,
        small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        large=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    )
    n, _, h, w = x.shape
    blurred = _blur(x, deviation)
    for _ in range(rounds):
        rows = h - reach - torch.arange(h - 2 * reach)  # from the last to the first, as published
        columns = w - reach - torch.arange(w - 2 * reach)
        shift = torch.randint(-reach, reach, (2, n, len(rows), len(columns)), generator=generator)
        source = sources(h, w, rows, columns, shift)
        blurred = blurred.flatten(2).gather(2, source[:, None].expand(-1, x.shape[1], -1)).view(x.shape)
    return _blur(blurred, deviation).clamp(0, 1)


def sources(h: int, w: int, rows: Tensor, columns: Tensor, shift: Tensor) -> Tensor:
    """Whose value each pixel holds in the end (N,H*W), where pixel after pixel takes over that of its neighbour.

    rows, columns: visited in this order, row by row. shift: 2,N,rows,columns, to the neighbour, in pixels.
    """
    n, size = shift.shape[1], h * w
    taker = (rows[:, None] * w + columns).flatten()
    giver = ((rows[:, None] + shift[0]) * w + columns + shift[1]).flatten(1)
    turn = torch.full((size,), size)
    turn[taker] = torch.arange(len(taker))
    # A pixel points at its neighbour: at its value before the round (beyond `size`) where its own turn is still to come.
    points = torch.arange(2 * size).repeat(n, 1)
    points[:, :size] += size
    points[:, taker] = torch.where(turn[giver] < turn[taker], giver, giver + size)
    while (points[:, :size] < size).any():
        points = points.gather(1, points)
    return points[:, :size] - size


def _blur(x: Tensor, deviation: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, deviation, deviation), mode="nearest"))
