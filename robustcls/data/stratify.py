"""Class-fair orders and subsets of samples."""

import torch
from torch import Tensor


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A permutation of the samples, drawn by seed: each class is shuffled and spread evenly over the whole order.

    So its first n samples hold each class in its share, to within one sample; and the first 100 are among the first 300.
    labels: int64 N, on any device. Returns int64 N on the CPU.
    """
    labels = labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank, count = ranks(labels[by_class])
    return by_class[((rank + 0.5) / count).argsort(stable=True)]


def first_proportional(labels: Tensor, n: int) -> Tensor:
    """At most n positions, sorted: the first samples of each class in file order, as many as its share of all samples.

    So accuracy on them estimates accuracy on all of them. A smaller choice is part of a larger one. labels: int64 N.
    Returns int64 on the CPU.
    """
    rank, count = ranks(labels.cpu())
    # Rounded, so that equal shares are equal numbers; of these a rarer class, then the first label comes first.
    turn = ((rank + 0.5) / count * 2**40).round().long()
    order = labels.cpu().argsort(stable=True)
    for key in (rank, turn):
        order = order[key[order].argsort(stable=True)]
    return order[:n].sort().values


def ranks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each sample, how many of its class come before it, and how many there are (float64). labels: int64 N, CPU."""
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    first = (counts.cumsum(0) - counts)[labels[by_class]]
    rank = torch.empty(len(labels), dtype=torch.float64)
    rank[by_class] = (torch.arange(len(labels)) - first).double()
    return rank, counts[labels].double()
