"""A small network on the digits that masks its gradients, because it was trained with FGSM without a random start.

    robustcls attack --model experiments.contests.masked:digits_fgsm --data "digits(size=8)" --eps 0.2

It is trained each time, in a few seconds, with the same weights on the same processor, so that no file must be kept.
"""

import torch
import torch.nn.functional as F
from torch import nn

from robustcls.core import plugins
from robustcls.core.gradients import frozen
from robustcls.core.threat import ThreatModel
from robustcls.data.sets.digits import digits


def digits_fgsm() -> nn.Module:
    return digits_net("fgsm", 0.2)


def digits_net(spec: str, eps: float) -> nn.Module:
    """Train two convolutions and two linear layers for 12 epochs on the 8-pixel digits, under the attack `spec`."""
    with torch.random.fork_rng(()):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        (x, y), attack = digits("train", size=8).batch(), plugins.load("attack", spec)
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(12):
            for rows in torch.randperm(len(x)).split(64):
                with frozen(net):
                    x_adv = attack(net, x[rows], y[rows], ThreatModel("linf", eps))
                optimizer.zero_grad()
                F.cross_entropy(net(x_adv), y[rows]).backward()
                optimizer.step()
    return net.eval()
