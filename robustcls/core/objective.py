"""The interfaces of objectives and steps: their arguments and their results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from robustcls.core.threat import ThreatModel

# (model, x, y, *, loss=cross_entropy, reference=None, through=None) -> x_adv. The attack runs on the model in eval mode and
# restores its state. A loss with the trait `reference`, such as kl, compares with the logits `reference` (default: the
# model's own logits on clean images). through: a function that maps the model in eval mode, or its fast copy, to the module
# that is attacked in its place.
BoundAttack = Callable[..., Tensor]


@dataclass
class Loss:
    """total: the scalar to minimise. logits: N,K, for the images that `seen` names. parts: named scalars for the log."""

    total: Tensor
    logits: Tensor
    seen: str = "clean"  # clean | adversarial
    parts: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def mean(cls, losses: "Sequence[Loss]") -> "Loss":
        """Return the mean loss of equal parts of a batch."""
        total = torch.stack([loss.total.detach() for loss in losses]).mean()
        parts = {name: torch.stack([loss.parts[name].detach() for loss in losses]).mean() for name in losses[0].parts}
        return cls(total, torch.cat([loss.logits for loss in losses]), losses[0].seen, parts)


class StepContext(Protocol):
    """The training state that a step receives: (state: StepContext, x, y) -> Loss.

    An objective with the keyword `state` receives it, too, for reading, such as the progress of the run or the threat model.
    """

    model: nn.Module
    threat: ThreatModel  # threat model of this batch; with `eps_ramp`, its radius may be smaller than that of the run
    full_threat: ThreatModel  # threat model of the run
    accumulate: int  # number of equal parts of a batch (gradient accumulation)
    state: dict[str, Tensor]  # tensors that the step keeps between batches; saved in last.pt

    @property
    def share_done(self) -> float:
        """Progress of the whole run, measured in the middle of this batch: between 0 and 1."""

    @property
    def batches_done(self) -> int:
        """Number of batches of the whole run before this one."""

    def attack(self, model: nn.Module, x: Tensor, y: Tensor, *, loss: Callable[..., Tensor] = ...) -> Tensor:
        """Return adversarial images of the inner attack; a BoundAttack."""

    def gradient(self, x: Tensor, y: Tensor, attack: BoundAttack) -> Loss:
        """Compute the gradients of the objective on a batch and store them in the parameters."""

    def update(self) -> None:
        """Update the parameters by one step of the optimizer."""

    def followers(self, name: str) -> list[Tensor]:
        """Return the tensors that belong to a parameter and have its shape: optimizer momenta, averaged weights."""
