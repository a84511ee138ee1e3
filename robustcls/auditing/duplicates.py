"""Images that occur twice, inside a split and across splits: pixel for pixel, or nearly.

Near duplicates are found in two steps. The coarse one compares small thumbnails, each less its mean and divided by its norm, by
their cosine, so that brightness and contrast do not count. Two skies have alike thumbnails, too; so the fine one asks whether
what the thumbnails leave out, the detail, correlates as well, far more than an image's nearest does in this data. Mirrored,
rotated and cropped copies are not found.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcls.core.progress import Bar
from robustcls.data.duplicates import digest

SIDE, FINE = 8, 32  # of a thumbnail, and of the image in which detail is compared, at most
COARSE = 0.95  # least cosine of the thumbnails
DETAIL = 0.6  # of the detail: on 12,000 CIFAR-10 images the pairs above were copies, when looked at, and few below were
UNUSUAL = (
    5  # standard deviations above what an image's nearest usually is: digits and shirts are alike without being copies
)
SAMPLED = 512  # images, of which that is measured
NEAREST, GAP = (
    16,
    0.5,
)  # of so many, those before a gap as wide as this (in atanh) are taken for copies and not for usual
MOST = 200_000  # images, above which near duplicates are not looked for: all pairs are compared
BLOCK = 2048


@dataclass(frozen=True)
class Group:
    """Positions of images that are alike, sorted; likeness: the least cosine of detail that joins them, 1 pixel for pixel."""

    rows: tuple[int, ...]
    likeness: float

    @property
    def exact(self) -> bool:
        return self.likeness == 1


def find_duplicates(pixels: Tensor, *, near: bool = True, progress: bool = False) -> list[Group]:
    """Groups of two images or more that are alike, by the first of each; exact and near ones in one group count as near.

    pixels: uint8 N,C,H,W. near: else only those that are equal, pixel for pixel.
    """
    by_digest: dict[str, list[int]] = defaultdict(list)
    for row, image in enumerate(pixels):
        by_digest[digest(image)].append(row)
    links = [(rows[0], row, 1.0) for rows in by_digest.values() for row in rows[1:]]
    if near and len(pixels) <= MOST:
        firsts = torch.tensor([rows[0] for rows in by_digest.values()])
        links += [
            (int(firsts[i]), int(firsts[j]), likeness) for i, j, likeness in _alike(pixels[firsts], progress=progress)
        ]
    return _joined(links)


def _alike(pixels: Tensor, *, progress: bool) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j of images whose thumbnails and detail are alike, and the cosine of the detail."""
    coarse, fine = _described(pixels)
    least = _least(fine)
    blocks = range(0, len(pixels), BLOCK)
    with Bar(len(blocks) * (len(blocks) + 1) // 2, "near duplicates", "block", show=progress) as bar:
        for a in blocks:
            for b in range(a, len(pixels), BLOCK):
                cosines = coarse[a : a + BLOCK] @ coarse[b : b + BLOCK].T
                near = (cosines >= COARSE).nonzero()
                near += near.new_tensor([a, b])
                near = near[near[:, 0] < near[:, 1]]
                likeness = (_floats(fine, near[:, 0]) * _floats(fine, near[:, 1])).sum(1)
                for (i, j), value in zip(near.tolist(), likeness.tolist(), strict=True):
                    if value >= least:
                        yield i, j, min(value, 1 - 1e-6)  # equal pixels were joined before
                bar.advance()


def _least(fine: Tensor) -> float:
    """The cosine of detail from which on two images of this data are near duplicates."""
    rows = torch.randperm(len(fine), generator=torch.Generator().manual_seed(0))[:SAMPLED].sort().values
    nearest = torch.empty(len(rows), 0)
    for some in torch.arange(len(fine)).split(BLOCK):
        cosines = (_floats(fine, rows) @ _floats(fine, some).T).masked_fill(rows[:, None] == some, -1)
        nearest = torch.cat([nearest, cosines], 1)
        nearest = nearest.topk(min(NEAREST, nearest.shape[1])).values
    z = _usual(nearest.clamp(-0.999, 0.999).atanh())  # by which cosines become about normal (Fisher 1915)
    spread = 1.4826 * (z - z.median()).abs().median()
    return max(DETAIL, (z.median() + UNUSUAL * spread).tanh().item())


def _usual(nearest: Tensor) -> Tensor:
    """How near the nearest that is no copy is: N, of N,K in falling order.

    Else nothing would be found where most images have a copy, such as in a test split that is train once more.
    """
    if nearest.shape[1] < 2:
        return nearest[:, 0]
    gap, place = (nearest[:, :-1] - nearest[:, 1:]).max(1)
    return nearest.gather(1, (place + 1).where(gap > GAP, 0)[:, None]).squeeze(1)


def _floats(fine: Tensor, rows: Tensor) -> Tensor:
    return F.normalize(fine[rows].float().flatten(1), eps=1e-3)


def _described(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Thumbnails float32 N,D of norm 1, or 0 where all is one colour; and what they leave out, float16 N,C,h,w."""
    side = max(1, min(SIDE, min(pixels.shape[2:]) // 2))
    size = min(FINE, pixels.shape[2]), min(FINE, pixels.shape[3])
    coarse, fine = [], []
    for part in pixels.split(BLOCK):
        small = F.adaptive_avg_pool2d(part.float() / 255, size)
        thumbnail = F.adaptive_avg_pool2d(small, side)
        fine.append((small - F.interpolate(thumbnail, size=size, mode="bilinear", align_corners=False)).half())
        coarse.append(F.normalize((thumbnail - thumbnail.mean((2, 3), keepdim=True)).flatten(1), eps=1e-2))
    return torch.cat(coarse), torch.cat(fine)


def _joined(links: Sequence[tuple[int, int, float]]) -> list[Group]:
    """The groups that links between two positions make."""
    home: dict[int, int] = {}

    def find(row: int) -> int:
        while home.setdefault(row, row) != row:
            row = home[row]
        return row

    for i, j, _ in links:
        a, b = sorted((find(i), find(j)))
        home[b] = a
    rows: dict[int, list[int]] = defaultdict(list)
    for row in home:
        rows[find(row)].append(row)
    least: dict[int, float] = defaultdict(lambda: 1.0)
    for i, _, likeness in links:
        least[find(i)] = min(least[find(i)], likeness)
    return sorted(
        (Group(tuple(sorted(group)), least[first]) for first, group in rows.items()), key=lambda one: one.rows
    )
