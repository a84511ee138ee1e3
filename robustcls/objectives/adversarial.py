"""Adversarial training."""

from torch import Tensor, nn

from robustcls.core.losses import cross_entropy
from robustcls.objectives.loss import BoundAttack, Loss


def adversarial(model: nn.Module, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
    """Cross-entropy of the attacked images (Madry et al. 2017, arXiv:1706.06083)."""
    logits = model(attack(model, x, y))
    return Loss(cross_entropy(logits, y).mean(), logits, seen="adversarial")
