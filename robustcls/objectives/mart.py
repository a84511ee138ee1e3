"""MART."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy, kl
from robustcls.core.objective import BoundAttack, Loss


def mart(
    model: nn.Module, x: Tensor, y: Tensor, attack: BoundAttack, *, beta: float = 5.0, label_smoothing: float = 0.0
) -> Loss:
    """Boosted cross-entropy under attack, plus beta times a divergence with most weight on misclassified clean images.

    Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples" (ICLR 2020). The divergence
    is KL(p(x) || p(x_adv)), weighted by 1 minus the probability of the label on the clean image.
    """
    if y.is_floating_point():
        raise InputError("objective mart needs one label per image: leave out the augmentation that mixes labels")
    if beta < 0:
        raise InputError(f"mart(beta={beta}): give 0 or more")
    x_adv = attack(model, x, y)
    clean, attacked = model(x).float(), model(x_adv).float()
    boosted = (cross_entropy(attacked, y, label_smoothing=label_smoothing) + _runner_up_entropy(attacked, y)).mean()
    missed = 1 - F.softmax(clean, 1).gather(1, y[:, None]).squeeze(1)
    weighted = (kl(attacked, clean) * missed).mean()
    return Loss(boosted + beta * weighted, attacked, seen="adversarial", parts={"bce": boosted, "kl": weighted})


def _runner_up_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return -log(1 - p) N, where p is the probability of the wrong class with the largest logit.

    Computed from the logits of all other classes, so that it is finite where p rounds to 1.
    """
    runner_up = logits.scatter(1, y[:, None], -torch.inf).argmax(1, keepdim=True)
    return logits.logsumexp(1) - logits.scatter(1, runner_up, -torch.inf).logsumexp(1)
