"""Verification of an attack's attempts by the fp32 model."""

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

    indices: Tensor  # N, rows of the samples in the evaluation
    x_adv: Tensor  # N,C,H,W
    predicted: Tensor  # N, NO_ANSWER where the model predicts no class
    margin: Tensor  # N, above 0 if misclassified, or predicted as the target; -inf outside ball or box
    distance: Tensor  # N, not finite where x_adv has values that are not
    misclassified: Tensor  # N, bool: misclassified (or predicted as the target) inside the box, at any distance
    success: Tensor  # N, bool: misclassified, inside ball and box, and unchanged outside the mask
    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    not_finite: int = 0  # gradients (one per image and step) with entries that were not finite

    @property
    def lost(self) -> int:
        """Number of attempts with values that are not finite."""
        return int((~self.distance.isfinite()).sum())

    @property
    def outside(self) -> int:
        """Number of finite attempts that lie outside ball or box, where none counts as a success."""
        return int((self.distance.isfinite() & (self.margin == -torch.inf)).sum())

    @property
    def unanswered(self) -> int:
        """Number of successes for which the model predicted no class; these count as misclassified."""
        return int((self.success & (self.predicted == NO_ANSWER)).sum())

    def take_better(self, other: "Attempts", rows: Tensor) -> None:
        """Replace these rows with the other attempts where those succeed or have a larger margin."""
        better = other.success | (other.margin > self.margin[rows])
        for name in ("x_adv", "predicted", "margin", "distance", "misclassified", "success"):
            getattr(self, name)[rows[better]] = getattr(other, name)[better]


def join(parts: Sequence[Attempts]) -> Attempts:
    """Concatenate the parts of a batch; counts are added up."""
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
    """Return the attempts x_adv with the fp32 model's verdict on each.

    An attempt succeeds if it lies inside ball, box and mask, and the model misclassifies exactly this tensor by more than a
    tie. With a detector, the image must also be accepted. For a model that sees only 8 bits per value, such as a service,
    images are first rounded to these, inside the ball. target: N classes; only these count, instead of any wrong class.
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
