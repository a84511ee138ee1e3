"""Training on clean images."""

from torch import Tensor, nn

from robustcls.core.losses import cross_entropy
from robustcls.core.objective import BoundAttack, Loss
from robustcls.core.traits import traits


@traits(attacks=False)
def standard(model: nn.Module, x: Tensor, y: Tensor, attack: BoundAttack, *, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy of the clean images."""
    logits = model(x)
    return Loss(cross_entropy(logits, y, label_smoothing=label_smoothing).mean(), logits)
