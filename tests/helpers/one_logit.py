"""Classifiers of two digits with one output (a logit or a probability) or two logits, for `--model` and `--data`."""

import torch
from torch import Tensor, nn

from robustcls.data.images import Images
from robustcls.data.sets.digits import digits

FORMS = {
    "logit": lambda z: z,
    "flat": lambda z: z[:, 0],
    "probability": torch.sigmoid,
    "two": lambda z: torch.cat([torch.zeros_like(z), z], 1),
}


class Told(nn.Module):
    """Classifies an image as the first or the second of two digits, with an output in one of FORMS."""

    def __init__(self, net: nn.Module, form: str) -> None:
        super().__init__()
        self.net, self.form = net, form

    def forward(self, x: Tensor) -> Tensor:
        return FORMS[self.form](self.net(x))


def pairs(split: str) -> Images:
    """Return the threes and eights of the 8x8 digits."""
    every = digits(split, size=8)
    rows = ((every.labels == 3) | (every.labels == 8)).nonzero().squeeze(1)
    return Images(every.pixels[rows], (every.labels[rows] == 8).long(), ("3", "8"), "threes and eights")


def told(form: str) -> nn.Module:
    """Return a small network trained on `pairs`, the same each time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))
    x, y = pairs("train").batch()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y.float()).backward()
        optimizer.step()
    return Told(net, form).eval()


def logit() -> nn.Module:
    return told("logit")


def probability() -> nn.Module:
    return told("probability")


def two() -> nn.Module:
    return told("two")
