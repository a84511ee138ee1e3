"""The goal of an attack: any class but the true one (untargeted), or the class `target` (targeted)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.losses import ATTACK_TIE, margin, misclassified, tie_scale

Loss = Callable[..., Tensor]  # logits N,K and labels -> N; larger is better for the attacker


@dataclass(frozen=True)
class Goal:
    """Untargeted or targeted misclassification of N samples.

    labels: N; the true classes, which an untargeted attack moves away from, or the target classes, which a targeted attack
    moves towards. The methods take the labels of the rows they are given, since samples leave the batch during an attack.
    """

    labels: Tensor
    targeted: bool = False
    measure: Loss = margin  # by how much another class leads the label; larger is farther from the label

    @classmethod
    def of(cls, y: Tensor, target: Tensor | None) -> "Goal":
        """Return the goal of an attack on labels y (N), or towards the classes `target` (N).

        Raises InputError if the target is not one integer class per sample.
        """
        if target is None:
            return cls(y)
        if target.shape != y.shape or target.is_floating_point():
            raise InputError(f"target is {target.dtype} of shape {tuple(target.shape)}: give a class for each image")
        return cls(target, targeted=True)

    def ascent(self, loss: Loss) -> Loss:
        """Return the loss to maximise: the loss itself for an untargeted attack, its negative for a targeted one."""
        return (lambda logits, labels: -loss(logits, labels)) if self.targeted else loss

    def closeness(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how close each sample is to the goal, N: larger is closer, and above 0 the goal is reached."""
        return self.ascent(self.measure)(logits, labels)

    def reached(self, logits: Tensor, labels: Tensor, *, tie: float = ATTACK_TIE) -> Tensor:
        """Whether the sample is misclassified, or predicted as the target, by more than a tie: N, bool."""
        return (hits if self.targeted else misclassified)(logits, labels, tie=tie)


def hits(logits: Tensor, target: Tensor, *, tie: float = ATTACK_TIE) -> Tensor:
    """Whether the target's logit exceeds every other by more than a tie: N, bool.

    tie: relative to the two logits that are compared.
    """
    return -margin(logits, target) > tie * tie_scale(logits, target)
