"""Defences of a linear model of 8x8 digits, to be named by `--model` and `--detector`."""

import torch
from torch import Tensor, nn

from robustcls.data.sets.digits import digits
from tests.helpers.eval_models import Masked, train_linear


class Levels(nn.Module):
    """A defence that reduces the bit depth."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 4).round() / 4


class Coarse(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.levels, self.net = Levels(), net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.levels(x))


def linear() -> nn.Module:
    return train_linear(*digits("train", size=8).batch()).eval()


def noisy() -> nn.Module:
    return Masked(linear(), lambda x: x + 0.2 * torch.randn_like(x)).eval()


SCALE = 1.0  # a test changes it, as an edit of this file would


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale = linear(), SCALE

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)


def scaled() -> nn.Module:
    return Scaled().eval()


def coarse() -> nn.Module:
    return Coarse(linear()).eval()


def unconfident(images: Tensor, logits: Tensor) -> Tensor:
    """Return a score that is larger where the classifier is less confident."""
    return -logits.softmax(1).amax(1)


def as_many_as_classes(images: Tensor, logits: Tensor) -> Tensor:
    return logits
