"""Models whose attribution maps are known."""

import torch
from torch import Tensor, nn

from robustcls.core.classifier import Classifier


def linear_with_weight(side: int) -> tuple[nn.Module, Tensor]:
    """Return a linear model of three classes for 3,side,side images, the same each time, and its weights 3,3,side,side."""
    torch.manual_seed(0)
    head = nn.Linear(3 * side * side, 3)
    return nn.Sequential(nn.Flatten(), head).eval(), head.weight.detach().view(3, 3, side, side)


def small_classifier() -> Classifier:
    """Return a network with BatchNorm and dropout, in train mode, for 3,8,8 images of three classes."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 3)),
    )
    return Classifier(net, classes=list("abc"), input_size=(3, 8, 8), mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25])
