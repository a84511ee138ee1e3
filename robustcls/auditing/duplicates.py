"""Duplicate images, within a split and across splits: exact (pixel by pixel) and near duplicates.

Near duplicates are found in two steps. The first step compares small thumbnails by cosine similarity, after subtracting their
mean and dividing by their norm, so that brightness and contrast do not matter. Different images, such as two skies, may also
have similar thumbnails. The second step therefore compares the detail, which the thumbnails leave out: it must correlate far
more than is usual for the nearest images in this data set. Mirrored, rotated and cropped copies are not found.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustcls.core.progress import Bar
from robustcls.data.duplicates import digest

SIDE, FINE = 8, 32  # maximum side of a thumbnail, and of the image in which detail is compared
COARSE = 0.95  # minimum cosine similarity of the thumbnails
# Minimum cosine similarity of the detail: among 12,000 CIFAR-10 images, pairs above were copies by inspection; few below were
DETAIL = 0.6
# Standard deviations above the usual similarity of nearest images; digits and shirts are similar without being copies.
UNUSUAL = 5
SAMPLED = 512  # images on which the usual similarity is measured
# Among the NEAREST images, those before a gap of at least GAP (in atanh) count as copies, not as usual neighbours.
NEAREST, GAP = 16, 0.5
MOST = 200_000  # with more images, near duplicates are not searched for, because all pairs are compared
BLOCK = 2048


@dataclass(frozen=True)
class Group:
    """A group of duplicates: sorted positions. likeness: smallest cosine similarity of detail that links them; 1: exact."""

    rows: tuple[int, ...]
    likeness: float

    @property
    def exact(self) -> bool:
        return self.likeness == 1


def find_duplicates(pixels: Tensor, *, near: bool = True, progress: bool = False) -> list[Group]:
    """Return the groups of two or more duplicates, sorted by their first image.

    A group with both exact and near duplicates counts as near. pixels: uint8 N,C,H,W. near: also search for near duplicates.
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
    """Yield pairs i < j of images with similar thumbnails and detail, and the cosine similarity of the detail."""
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
                        yield i, j, min(value, 1 - 1e-6)  # exact duplicates were linked before
                bar.advance()


def _least(fine: Tensor) -> float:
    """Return the cosine similarity of detail above which two images of this data are near duplicates."""
    rows = torch.randperm(len(fine), generator=torch.Generator().manual_seed(0))[:SAMPLED].sort().values
    nearest = torch.empty(len(rows), 0)
    for some in torch.arange(len(fine)).split(BLOCK):
        cosines = (_floats(fine, rows) @ _floats(fine, some).T).masked_fill(rows[:, None] == some, -1)
        nearest = torch.cat([nearest, cosines], 1)
        nearest = nearest.topk(min(NEAREST, nearest.shape[1])).values
    z = _usual(nearest.clamp(-0.999, 0.999).atanh())  # makes cosines approximately normal (Fisher 1915)
    spread = 1.4826 * (z - z.median()).abs().median()
    return max(DETAIL, (z.median() + UNUSUAL * spread).tanh().item())


def _usual(nearest: Tensor) -> Tensor:
    """Return the similarity of the nearest image that is not a copy: N, from similarities N,K in descending order.

    Without this step, no duplicates would be found where most images have a copy, as in a test split that repeats train.
    """
    if nearest.shape[1] < 2:
        return nearest[:, 0]
    gap, place = (nearest[:, :-1] - nearest[:, 1:]).max(1)
    return nearest.gather(1, (place + 1).where(gap > GAP, 0)[:, None]).squeeze(1)


def _floats(fine: Tensor, rows: Tensor) -> Tensor:
    return F.normalize(fine[rows].float().flatten(1), eps=1e-3)


def _described(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return thumbnails, float32 N,D with norm 1 (0 for uniform images), and the detail they leave out, float16 N,C,h,w."""
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
    """Return the connected groups of links between two positions."""
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
