"""A linear classifier whose smoothed vote is known exactly."""

import torch
from torch import nn


class TwoClasses(nn.Module):
    """A linear classifier of two classes: under noise, it predicts the first with probability Phi(margin / sigma)."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(3 * 4 * 4, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight / weight.norm())

    def margin(self, x):
        return (x - 0.5).flatten(1) @ self.weight

    def forward(self, x):
        return torch.stack([self.margin(x), -self.margin(x)], 1)


def images_at(margins):
    """Return the classifier, and images at these signed distances to its decision boundary."""
    net = TwoClasses()
    return net, torch.stack([0.5 + one * net.weight.view(3, 4, 4) for one in margins])
