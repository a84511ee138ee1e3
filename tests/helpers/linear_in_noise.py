"""A linear classifier, of whose smoothed vote everything is known."""

import torch
from torch import nn


class TwoClasses(nn.Module):
    """A linear classifier of two classes: under noise the first wins with probability Phi(margin / sigma)."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(3 * 4 * 4, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight / weight.norm())

    def margin(self, x):
        return (x - 0.5).flatten(1) @ self.weight

    def forward(self, x):
        return torch.stack([self.margin(x), -self.margin(x)], 1)


def images_at(margins):
    """Images whose distance to the decision boundary is known."""
    net = TwoClasses()
    return net, torch.stack([0.5 + one * net.weight.view(3, 4, 4) for one in margins])
