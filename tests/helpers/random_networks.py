"""Small random networks that can be bounded, points in a ball, and the margins that no lower bound may exceed."""

import torch
from torch import Tensor, nn

from robustcls.core.threat import ThreatModel

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "softplus": lambda: nn.Softplus(beta=5),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "relu6": nn.ReLU6,
    "hardsigmoid": nn.Hardsigmoid,
}
KINDS = ("linear", "convolution", "residual", "max", "mean")
CLASSES = 3


class Residual(nn.Module):
    """A convolution with BatchNorm in front, and a skip connection."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.bn, self.conv, self.activation = (
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, 1, 1),
            activation,
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.activation(self.bn(x)))


class Normalised(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor([0.4, 0.6]).view(1, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / 0.3)


def random_network(seed: int, kind: str, activation: str, gain: float) -> nn.Module:
    """Return a network from 2x6x6 pixels to CLASSES logits, in eval mode. gain: factor on the usual weights."""
    torch.manual_seed(seed)
    act = ACTIVATIONS[activation]
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(72, 10), act(), nn.Linear(10, 8), act(), nn.Linear(8, CLASSES)]
    if kind != "linear":
        layers = [nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), act()]
        layers += [Residual(4, act()), act()] if kind == "residual" else [nn.Conv2d(4, 4, 3, 1, 1, groups=2), act()]
        layers += {"max": [nn.MaxPool2d(2, 1)], "mean": [nn.AvgPool2d(2, 1, padding=1)]}.get(kind, [])
        layers += [
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 6),
            nn.BatchNorm1d(6),
            act(),
            nn.Linear(6, CLASSES),
        ]
    net = Normalised(nn.Sequential(*layers))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.weight.mul_(gain)
                module.bias.uniform_(-0.5, 0.5)
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(-1.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
    return net.eval()


def points_in(x: Tensor, threat: ThreatModel, count: int) -> Tensor:
    """Return points in ball and box around each image, half of them on the surface of the ball: N*count,C,H,W."""
    many = x.repeat_interleave(count, 0)
    delta = torch.randn_like(many)
    if threat.norm == "linf":
        delta = (
            torch.where(torch.rand(len(many), 1, 1, 1) < 0.5, delta.sign(), torch.rand_like(many) * 2 - 1) * threat.eps
        )
    else:
        length = torch.where(torch.rand(len(many), 1, 1, 1) < 0.5, 1.0, torch.rand(len(many), 1, 1, 1)) * threat.eps
        delta = delta / delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * length
    return (many + delta).clamp(0, 1)


def margins(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the margins z_y - z_k, N,K."""
    with torch.no_grad():
        logits = model(x).double()
    return logits.gather(1, y[:, None]) - logits
