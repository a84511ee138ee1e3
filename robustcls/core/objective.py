"""The contracts of objectives and steps: what they are given, and what they give back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from robustcls.core.threat import ThreatModel

# (model, x, y, *, loss=cross_entropy, reference=None, through=None) -> x_adv, made on the model in eval mode, which stays as it
# was. A loss with the trait `reference`, such as kl, compares with the reference logits: the model's own clean ones unless
# given. through: of the model in eval mode, or its fast copy, the module around it that is attacked in its place.
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


class StepContext(Protocol):
    """What a step sees of the training that it is a step of: (state: StepContext, x, y) -> Loss.

    An objective with the keyword `state` is handed it, too, to read: how much of the run is done, the threat model.
    """

    model: nn.Module
    threat: ThreatModel  # of this batch: with `eps_ramp` smaller than the run's
    full_threat: ThreatModel  # the run's
    accumulate: int  # equal parts that a batch is cut in
    state: dict[str, Tensor]  # what the step keeps from batch to batch; saved in last.pt

    @property
    def share_done(self) -> float:
        """Of the whole run, in the middle of this batch: between 0 and 1."""

    @property
    def batches_done(self) -> int:
        """Of the whole run, before this one."""

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, loss: Callable[..., Tensor] = ...) -> Tensor:
        """Adversarial images by the inner attack, as a BoundAttack."""

    def gradient(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        """Fills the parameters' gradients with those of the objective on a batch."""

    def update(self) -> None:
        """Moves the parameters along their gradients by one step of the optimizer."""

    def followers(self, name: str) -> list[Tensor]:
        """What goes along with the parameter of this name, in its shape: the optimizer's momenta, the weights' average."""
