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
    """Cross-entropy on noisy adversarial images of the smoothed classifier: SmoothAdv (Salman et al., arXiv:1906.04584).

    The attack, such as `pgd` in l2, maximises the loss of the mean softmax over `draws` noisy copies of the image, with the
    same noise in all of its steps. The model is then trained on the noisy copies of x_adv, each with the label. x_adv stays in
    [0, 1]; the noisy copies are not clamped.

    Differences from the paper's code: the attack uses its usual step rule for the threat model, and there is no warm-up of the
    attack.

    sigma: standard deviation of the noise.
    """
    if not 0 < sigma < math.inf or draws < 1:
        raise InputError(f"smooth_adv(sigma={sigma:g}, draws={draws}): give a sigma above 0, and 1 draw or more")
    noise = [sigma * torch.randn_like(x) for _ in range(draws)]
    x_adv = attack(model, x, y, through=lambda attacked: _Mean(attacked, noise))
    logits = [model(x_adv + one) for one in noise]
    losses = torch.stack([labelled_mean(cross_entropy(one, y), y) for one in logits])
    return Loss(losses.mean(), logits[0], seen="adversarial")


class _Mean(nn.Module):
    """The logarithm of the mean softmax over the given noise tensors, as a module."""

    def __init__(self, model: nn.Module, noise: list[Tensor]) -> None:
        super().__init__()
        self.model, self.noise = model, noise

    def forward(self, x: Tensor) -> Tensor:
        logs = self.model(torch.cat([x + one for one in self.noise])).float().log_softmax(1)  # in one pass
        return mean_probabilities(list(logs.chunk(len(self.noise))))
