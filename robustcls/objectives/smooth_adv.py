"""Adversarial training of a smoothed classifier."""

import math

import torch
from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.logits import mean_probabilities
from robustcls.core.losses import cross_entropy, labelled_mean
from robustcls.core.objective import BoundAttack, Loss


def smooth_adv(
    model: nn.Module, x: Tensor, y: Tensor, attack: BoundAttack, *, sigma: float = 0.25, draws: int = 2
) -> Loss:
    """Cross-entropy under noise, at examples against the mean under that noise: SmoothAdv (Salman et al., arXiv:1906.04584).

    The attack, such as `pgd` in l2, sees the mean softmax over `draws` noisy copies, the same in all of its steps; on these the
    model is trained, each with the label. x_adv stays in [0, 1], the noise on it is not clamped.

    What differs from the paper's code: the attack takes its step in the threat's usual way, and is not warmed up.
    """
    if not 0 < sigma < math.inf or draws < 1:
        raise InputError(f"smooth_adv(sigma={sigma:g}, draws={draws}): give a sigma above 0, and 1 draw or more")
    noise = [sigma * torch.randn_like(x) for _ in range(draws)]
    x_adv = attack(model, x, y, through=lambda attacked: _Mean(attacked, noise))
    logits = [model(x_adv + one) for one in noise]
    losses = torch.stack([labelled_mean(cross_entropy(one, y), y) for one in logits])
    return Loss(losses.mean(), logits[0], seen="adversarial")


class _Mean(nn.Module):
    """The logarithm of the mean softmax over given noise."""

    def __init__(self, model: nn.Module, noise: list[Tensor]) -> None:
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x: Tensor) -> Tensor:
        logs = self.model(torch.cat([x + one for one in self.noise])).float().log_softmax(1)  # in one pass
        return mean_probabilities(list(logs.chunk(len(self.noise))))
