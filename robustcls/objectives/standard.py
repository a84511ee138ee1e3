"""Training on clean images."""

from torch import Tensor, nn

from robustcls.core.losses import cross_entropy
from robustcls.objectives.loss import BoundAttack, Loss


def standard(model: nn.Module, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
    """Cross-entropy of the clean images."""
    logits = model(x)
    return Loss(cross_entropy(logits, y).mean(), logits)
