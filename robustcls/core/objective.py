"""What an objective gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# (model, x, y, *, loss=cross_entropy) -> x_adv. With loss=kl the attack leaves the model's clean prediction, not y.
BoundAttack = Callable[..., Tensor]


@dataclass
class Loss:
    """total: the scalar to minimise. logits: N,K, of the images in `seen`. parts: named scalars for the log."""

    total: Tensor
    logits: Tensor
    seen: str = "clean"  # clean | adversarial
    parts: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def mean(cls, losses: "Sequence[Loss]") -> "Loss":
        """Of the equal parts of a batch."""
        total = torch.stack([loss.total.detach() for loss in losses]).mean()
        parts = {name: torch.stack([loss.parts[name].detach() for loss in losses]).mean() for name in losses[0].parts}
        return cls(total, torch.cat([loss.logits for loss in losses]), losses[0].seen, parts)
