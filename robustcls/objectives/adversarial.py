"""Adversarial training."""

from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.losses import cross_entropy
from robustcls.core.objective import BoundAttack, Loss


def adversarial(
    model: nn.Module, x: Tensor, y: Tensor, attack: BoundAttack, *, mix: float = 0.0, label_smoothing: float = 0.0
) -> Loss:
    """Cross-entropy of the attacked images (Madry et al. 2017, arXiv:1706.06083).

    mix: weight of the clean images in the loss (one half in Goodfellow et al. 2014, arXiv:1412.6572).
    """
    if not 0 <= mix < 1:
        raise InputError(f"adversarial(mix={mix}): give 0 or more, below 1")
    logits = model(attack(model, x, y))
    attacked = cross_entropy(logits, y, label_smoothing=label_smoothing).mean()
    if mix == 0:
        return Loss(attacked, logits, seen="adversarial")
    clean = cross_entropy(model(x), y, label_smoothing=label_smoothing).mean()
    total = mix * clean + (1 - mix) * attacked
    return Loss(total, logits, seen="adversarial", parts={"clean": clean, "attacked": attacked})
