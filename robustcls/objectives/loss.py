"""What an objective gives back."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

BoundAttack = Callable[..., Tensor]  # (model, x, y, **options) -> x_adv


@dataclass
class Loss:
    """total: the scalar to minimise. logits: N,K, of the images in `seen`. parts: named scalars for the log."""

    total: Tensor
    logits: Tensor
    seen: str = "clean"  # clean | adversarial
    parts: dict[str, Tensor] = field(default_factory=dict)
