"""Keeping, for each sample, the worst of several attempts."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robustcls.core.losses import margin


@torch.no_grad()
def worst_of(model: nn.Module, y: Tensor, attempts: Iterable[Tensor]) -> Tensor:
    """Of several x_adv (N,C,H,W) the one whose margin is largest, sample by sample."""
    worst = worst_margin = None
    for x_adv in attempts:
        found = margin(model(x_adv), y)
        if worst is None or worst_margin is None:
            worst, worst_margin = x_adv, found
        else:
            better = found > worst_margin
            worst = torch.where(better.view(-1, 1, 1, 1), x_adv, worst)
            worst_margin = torch.maximum(worst_margin, found)
    if worst is None:
        raise ValueError("no attempts")
    return worst
