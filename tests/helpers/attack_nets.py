"""Small models, and comparison with AutoAttack's own code, for the tests of single attacks."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits


class Counting(nn.Module):
    """A model that counts its forward passes and the images in them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.images, self.passes = net, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images, self.passes = self.images + len(x), self.passes + 1
        return self.net(x)


class Walled(nn.Module):
    """A model whose label is class 0 and whose only competitor is class 1.

    The first pixel of an image sets which share of the way to an error is left when the second pixel has moved by eps.
    met: the first pixels of all images in all forward passes.
    """

    def __init__(self, eps: float, classes: int = 3) -> None:
        super().__init__()
        self.eps, self.classes = eps, classes
        self.met: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        left, gone = x[:, 0, 0, 0].round(decimals=1), (x[:, 0, 0, 1] - 0.5).abs() / self.eps
        self.met.append(left.detach())
        lead = 1 - (1 - left) * gone
        far = [lead / 2 - k for k in range(2, self.classes)]
        return torch.stack([lead / 2, -lead / 2, *far], 1)  # so that the DLR is -lead / 2


def linear(num_classes: int, *shape: int) -> nn.Sequential:
    torch.manual_seed(num_classes)
    size = torch.Size(shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(size, num_classes)).requires_grad_(False)


def fit_digits(net: nn.Module, epochs: int, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Train net on the digits, with noise if given; freeze it, and return the test images and labels."""
    x, y = digits("train", size=8).batch()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            images = (x[rows] + noise * torch.randn(x[rows].shape)).clamp(0, 1) if noise else x[rows]
            optimizer.zero_grad()
            F.cross_entropy(net(images), y[rows]).backward()
            optimizer.step()
    net.eval().requires_grad_(False)
    return digits("test", size=8).batch()


def deeper_net() -> nn.Sequential:
    """Return a net of two convolutions, with the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def trained_on_digits(n: int = 60) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a small net, trained briefly with noise, and n test images that it classifies correctly, with labels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 10))
    x, y = fit_digits(net, epochs=10, noise=0.2)
    right = net(x).argmax(1) == y
    return net, x[right][:n], y[right][:n]


def robust_under_autoattack(
    net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, attack: str, **settings
) -> float:
    """Return the robust accuracy under this attack of AutoAttack's own code."""
    autoattack = pytest.importorskip("pyautoattack", reason="AutoAttack's own code is not installed")
    name = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge = autoattack.AutoAttack(
            net, norm=name, eps=threat.eps, version="custom", attacks=[attack], device="cpu", seed=0
        )
        peer = judge.fab if attack == "fab-t" else judge.square
        for key, value in {"n_restarts": 1, **settings}.items():
            setattr(peer, key, value)
        x_adv = judge.run_standard_evaluation(x, y, batch_size=len(x))[0]
    return robust(net, x_adv, x, y, threat)


def robust(net: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel) -> float:
    """Return the share of samples that is correct on x_adv; images outside the ball do not count as adversarial."""
    outside = threat.distance(x_adv, x) > threat.eps * (1 + 1e-5) + 1e-6
    return ((net(x_adv).argmax(1) == y) | outside).float().mean().item()
