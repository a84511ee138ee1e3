"""The samples that an attack still works on.

A sample leaves the batch as soon as it is misclassified, since most of an attack's cost would be further steps on samples
that it has already broken.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from robustcls.attacks._goal import Goal
from robustcls.core.losses import dlr, targeted_dlr


@dataclass
class Active:
    """The state of an attack on its remaining samples: tensors with one row per sample. Attacks add fields in subclasses."""

    x: Tensor  # N,C,H,W, clean
    y: Tensor  # N
    x_adv: Tensor
    index: Tensor = field(init=False)  # N, the positions of these samples in the batch that the attack was given

    def __post_init__(self) -> None:
        self.index = torch.arange(len(self.x), device=self.x.device)

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, rows: Tensor) -> None:
        """Continue with these samples only (N, bool)."""
        for one in fields(self):
            tensor = getattr(self, one.name)
            if tensor is not None:
                setattr(self, one.name, tensor[rows])

    def drop(self, rows: Tensor, *, into: Tensor) -> bool:
        """Remove these samples (N, bool) and write their x_adv into the results `into`. Return whether any were removed."""
        if not rows.any():
            return False
        into[self.index[rows]] = self.x_adv[rows]
        self.keep(~rows)
        return True


class Restarts:
    """Keep each sample's attempt that came closest to the goal, and the samples that still get another restart."""

    def __init__(self, model: Callable[[Tensor], Tensor], x: Tensor, goal: Goal, early_stop: bool) -> None:
        """early_stop: a sample gets no further restart once an attempt has succeeded."""
        self.model, self.goal, self.early_stop = model, goal, early_stop
        self.x_adv, self.closeness = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        self.left = torch.arange(len(x), device=x.device)  # rows of the samples that get another restart

    @torch.no_grad()
    def add(self, x_adv: Tensor) -> None:
        """Take the attempts x_adv on the samples `left`."""
        logits, labels = self.model(x_adv), self.goal.labels[self.left]
        closeness = self.goal.closeness(logits, labels)
        better = closeness > self.closeness[self.left]
        self.x_adv[self.left[better]] = x_adv[better]
        self.closeness[self.left[better]] = closeness[better]
        if self.early_stop:
            self.left = self.left[~self.goal.reached(logits, labels)]

    def give_up_below(self, least: Tensor) -> None:
        """Stop restarts on samples whose closest attempt is less close to the goal than `least` (N)."""
        self.left = self.left[self.closeness[self.left] >= least[self.left]]


@torch.no_grad()
def at_most_left(
    share: float, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor | None, target: Tensor | None = None
) -> Tensor:
    """Return the rows on which x_adv is already close to success.

    These are the rows where at most this share remains of the way from the clean image x to a misclassification, measured by
    the DLR loss, or to the target, measured by the targeted DLR loss. Without x_adv, or for a share of 1, all rows.
    """
    if share == 1 or x_adv is None:
        return torch.arange(len(x), device=x.device)
    now, clean = (dlr(z, y) if target is None else targeted_dlr(z, y, target) for z in (model(x_adv), model(x)))
    return (now >= share * clean).nonzero().squeeze(1)


def per_sample(values: Tensor) -> Tensor:
    """Reshape N values to N,1,1,1, to broadcast over images."""
    return values.view(-1, 1, 1, 1)
