"""What an attack is after: any class but the true one, or the class `target`."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.losses import ATTACK_TIE, margin, misclassified, tie_scale

Loss = Callable[..., Tensor]  # logits N,K and labels -> N; larger is better for the attacker


@dataclass(frozen=True)
class Goal:
    """labels: the true classes, which an attack leaves, or the targets, which it goes to; N.

    The functions take the labels of the rows at hand.
    """

    labels: Tensor
    targeted: bool = False
    measure: Loss = margin  # how far the labels' logits are behind

    @classmethod
    def of(cls, y: Tensor, target: Tensor | None) -> "Goal":
        """Raises InputError where a target is no label for each sample."""
        if target is None:
            return cls(y)
        if target.shape != y.shape or target.is_floating_point():
            raise InputError(f"target is {target.dtype} of shape {tuple(target.shape)}: give a class for each image")
        return cls(target, targeted=True)

    def ascent(self, loss: Loss) -> Loss:
        """The loss to maximise: as it is away from the true class, negative towards a target."""
        return (lambda logits, labels: -loss(logits, labels)) if self.targeted else loss

    def closeness(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Larger is closer to the goal, above 0 is there: N."""
        return self.ascent(self.measure)(logits, labels)

    def reached(self, logits: Tensor, labels: Tensor, *, tie: float = ATTACK_TIE) -> Tensor:
        """Whether the model errs, or gives the target, and by more than a tie: N, bool."""
        return (hits if self.targeted else misclassified)(logits, labels, tie=tie)


def hits(logits: Tensor, target: Tensor, *, tie: float = ATTACK_TIE) -> Tensor:
    """Whether the target leads every other class by more than `tie`, a share of the logits compared: N, bool."""
    return -margin(logits, target) > tie * tie_scale(logits, target)
