"""Images that an attack by labels may begin from: drawn from all samples, so that the batch decides nothing."""

import torch
from torch import Tensor

OTHERS = 100


def others_of(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """At most OTHERS of the images x (N,C,H,W), of the classes y (N) in turn, by the numbers that name them (N)."""
    order = index.argsort(stable=True).to(y.device)
    labels = y[order]
    turn = torch.zeros_like(labels)  # the place of each image within its class
    for label in labels.unique():
        own = labels == label
        turn[own] = torch.arange(int(own.sum()), device=y.device)
    return x[order[turn.argsort(stable=True)[:OTHERS]].to(x.device)]
