"""Rules that select a subset of the samples with regard to their classes.

Each rule has its own purpose. Published results depend on the samples that a rule selects, so a change to a rule changes
these results. All functions take labels, whole numbers N, and return positions, int64 on the CPU.
"""

import torch
from torch import Tensor


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """Return a random permutation in which each class is spread evenly over the whole order. For splits and their subsets.

    The first n samples have the class proportions of all samples, to within one sample per class. Smaller subsets are
    contained in larger ones.
    """
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank, count = _ranks(labels[by_class])
    return by_class[((rank + 0.5) / count).argsort(stable=True)]


def first_proportional(labels: Tensor, n: int) -> Tensor:
    """Return at most n sorted positions: the first samples of each class in file order, in proportion to the classes.

    Accuracy on them is an estimate of accuracy on all samples. Smaller subsets are contained in larger ones.
    """
    labels = labels.cpu()
    rank, count = _ranks(labels)
    # Rounded, so that equal shares are equal numbers. Ties are broken in favour of the rarer class, then the lower label.
    turn = ((rank + 0.5) / count * 2**40).round().long()
    order = labels.argsort(stable=True)
    for key in (rank, turn):
        order = order[key[order].argsort(stable=True)]
    return order[:n].sort().values


def spaced(labels: Tensor, count: int) -> Tensor:
    """Return at most `count` sorted positions, evenly spaced over the samples sorted by class. For measures on few samples."""
    n = len(labels)
    taken = torch.arange(min(n, count)) * n // max(1, min(n, count))
    return labels.cpu().argsort(stable=True)[taken].sort().values


def in_turn(labels: Tensor) -> Tensor:
    """Return an order in which the classes alternate: the first sample of each class, then the second of each, and so on."""
    return _ranks(labels.cpu())[0].argsort(stable=True)


def _ranks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each sample its rank within its class, counted from 0, and the size of its class (both float64)."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    rank = torch.empty(len(labels), dtype=torch.float64)
    rank[by_class] = (torch.arange(len(labels)) - first).double()
    return rank, counts[labels].double()
