"""Which samples are taken where fewer will do, fair to the classes.

The rules differ in what they are for, and published results depend on which samples each of them takes: to change one is to
change these. All take labels, whole numbers N, and give positions, int64 on the CPU.
"""

import torch
from torch import Tensor


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A random permutation in which each class is spread evenly over the whole order: for splits, and subsets of them.

    So its first n samples hold each class in its share, to within one sample; and the first 100 are among the first 300.
    """
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank, count = _ranks(labels[by_class])
    return by_class[((rank + 0.5) / count).argsort(stable=True)]


def first_proportional(labels: Tensor, n: int) -> Tensor:
    """At most n positions, sorted: the first samples of each class in file order, as many as its share of all samples.

    So accuracy on them estimates accuracy on all of them. A smaller choice is part of a larger one.
    """
    labels = labels.cpu()
    rank, count = _ranks(labels)
    # Rounded, so that equal shares are equal numbers; of these a rarer class, then the first label comes first.
    turn = ((rank + 0.5) / count * 2**40).round().long()
    order = labels.argsort(stable=True)
    for key in (rank, turn):
        order = order[key[order].argsort(stable=True)]
    return order[:n].sort().values


def spaced(labels: Tensor, count: int) -> Tensor:
    """At most `count` positions, sorted: evenly spaced over the samples sorted by class, for measures on few samples."""
    n = len(labels)
    taken = torch.arange(min(n, count)) * n // max(1, min(n, count))
    return labels.cpu().argsort(stable=True)[taken].sort().values


def in_turn(labels: Tensor) -> Tensor:
    """An order in which the classes take turns: the first sample of each class, then the second of each, and so on."""
    return _ranks(labels.cpu())[0].argsort(stable=True)


def _ranks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample, how many of its class come before it, and how many there are (float64)."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    rank = torch.empty(len(labels), dtype=torch.float64)
    rank[by_class] = (torch.arange(len(labels)) - first).double()
    return rank, counts[labels].double()
