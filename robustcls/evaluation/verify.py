"""Attempts of an attack on a batch, as the fp32 model verifies them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attacks._goal import Goal
from robustcls.core.detector import Detector
from robustcls.core.eight_bits import rounded_inside, takes_eight_bits
from robustcls.core.losses import NO_ANSWER, VERDICT_TIE, predict_labels
from robustcls.core.threat import BALL, ThreatModel


@dataclass
class Attempts:
    """A batch of verified attempts, on the CPU; N samples."""

    indices: Tensor  # N, of the samples in the evaluation
    x_adv: Tensor  # N,C,H,W
    predicted: Tensor  # N, NO_ANSWER where the logits name no class
    margin: Tensor  # N, above 0 for an error, or for the target; -inf outside ball or box
    distance: Tensor  # N, not finite where the attempt is no image
    misclassified: Tensor  # N, or given the target, inside the box, at whatever distance
    success: Tensor  # N, the same inside ball and box, and unchanged outside the mask
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    not_finite: int = 0  # gradients of an image with entries that were not finite

    @property
    def lost(self) -> int:
        """Attempts with values that are not finite: no images."""
        return int((~self.distance.isfinite()).sum())

    @property
    def outside(self) -> int:
        """Attempts that are images and lie outside ball or box, where nothing succeeds."""
        return int((self.distance.isfinite() & (self.margin == -torch.inf)).sum())

    @property
    def unanswered(self) -> int:
        """Attempts inside ball and box for which the model named no class; they count as misclassified."""
        return int((self.success & (self.predicted == NO_ANSWER)).sum())

    def take_better(self, other: "Attempts", rows: Tensor) -> None:
        """Replaces these rows by other's attempts where they succeed, or come closer to it."""
        better = other.success | (other.margin > self.margin[rows])
        for name in ("x_adv", "predicted", "margin", "distance", "misclassified", "success"):
            getattr(self, name)[rows[better]] = getattr(other, name)[better]


def join(parts: Sequence[Attempts]) -> Attempts:
    """The parts of a batch as one."""
    if len(parts) == 1:
        return parts[0]
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Attempts)}
    joined: dict[str, Any] = {
        name: torch.cat(values) if isinstance(values[0], Tensor) else sum(values) for name, values in columns.items()
    }
    return Attempts(**joined)


@torch.no_grad()
def verify(
    model: nn.Module,
    x_adv: Tensor,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    indices: Tensor,
    detector: Detector | None = None,
    *,
    target: Tensor | None = None,
) -> Attempts:
    """An attempt succeeds inside ball, box and mask where the fp32 model misclassifies the tensor as saved beyond a tie.

    target: N classes that alone count, instead of any wrong one. Beside a detector it must also be accepted. For a model that
    sees 8 bits alone, such as a service, it is rounded to them first, inside the ball.
    """
    if takes_eight_bits(model, threat):
        x_adv = rounded_inside(x_adv, x, threat)
    logits = model(x_adv)
    goal = Goal.of(y, target)
    gap, predicted, distance = goal.closeness(logits, goal.labels), predict_labels(logits), threat.distance(x_adv, x)
    in_box = (x_adv.flatten(1).amin(1) >= 0) & (x_adv.flatten(1).amax(1) <= 1)
    inside = in_box & (distance <= threat.eps + BALL) & threat.keeps_mask(x_adv, x)
    wrong = in_box & goal.reached(logits, goal.labels, tie=VERDICT_TIE)
    if detector is not None:
        excess = detector.excess(x_adv, logits).nan_to_num(nan=torch.inf)
        wrong, gap = wrong & (excess <= 0), torch.where(excess > 0, torch.minimum(gap, -excess), gap)
    gap = gap.where(inside, torch.full_like(gap, -float("inf")))
    success = wrong & inside
    return Attempts(indices, x_adv.cpu(), predicted.cpu(), gap.cpu(), distance.cpu(), wrong.cpu(), success.cpu())
