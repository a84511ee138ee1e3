"""Models whose maps are known."""

import torch
from torch import Tensor, nn


def linear_with_weight(side: int) -> tuple[nn.Module, Tensor]:
    """Three classes of 3,side,side images, from the same weights each time; and the weights, 3,3,side,side."""
    torch.manual_seed(0)
    head = nn.Linear(3 * side * side, 3)
    return nn.Sequential(nn.Flatten(), head).eval(), head.weight.detach().view(3, 3, side, side)
