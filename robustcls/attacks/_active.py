"""The samples that an attack still works on. One that it has won leaves: the steps that it no longer needs are most of
the cost."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from robustcls.attacks._goal import Goal
from robustcls.core.losses import dlr, targeted_dlr


@dataclass
class Active:
    """The state of an attack: tensors whose first axis is the sample. Each attack adds the fields that it needs."""

    x: Tensor  # N,C,H,W, clean
    y: Tensor  # N
    x_adv: Tensor
    index: Tensor = field(init=False)  # N, the places of these samples in the batch that the attack was given

    def __post_init__(self) -> None:
        self.index = torch.arange(len(self.x), device=self.x.device)

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, rows: Tensor) -> None:
        """Goes on with these samples (N, bool) alone."""
        for one in fields(self):
            tensor = getattr(self, one.name)
            if tensor is not None:
                setattr(self, one.name, tensor[rows])

    def drop(self, rows: Tensor, *, into: Tensor) -> bool:
        """These samples (N, bool) leave, and their x_adv are their results: whether there are any."""
        if not rows.any():
            return False
        into[self.index[rows]] = self.x_adv[rows]
        self.keep(~rows)
        return True


class Restarts:
    """Of each sample the attempt that came closest to the goal, and the samples still worth another."""

    def __init__(self, model: Callable[[Tensor], Tensor], x: Tensor, goal: Goal, early_stop: bool) -> None:
        """early_stop: a sample is not worth another attempt once one has succeeded."""
        self.model, self.goal, self.early_stop = model, goal, early_stop
        self.x_adv, self.closeness = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        self.left = torch.arange(len(x), device=x.device)  # the places of these samples

    @torch.no_grad()
    def add(self, x_adv: Tensor) -> None:
        """Restarts on the samples that are left."""
        logits, labels = self.model(x_adv), self.goal.labels[self.left]
        closeness = self.goal.closeness(logits, labels)
        better = closeness > self.closeness[self.left]
        self.x_adv[self.left[better]] = x_adv[better]
        self.closeness[self.left[better]] = closeness[better]
        if self.early_stop:
            self.left = self.left[~self.goal.reached(logits, labels)]

    def give_up_below(self, least: Tensor) -> None:
        """On samples whose closest attempt is less close than `least` (N)."""
        self.left = self.left[self.closeness[self.left] >= least[self.left]]


@torch.no_grad()
def at_most_left(
    share: float, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor | None, target: Tensor | None = None
) -> Tensor:
    """The rows where x_adv has left at most this share of the way from x to an error, by the DLR, or to the target, by the
    targeted one; all without x_adv, or for a share of 1."""
    if share == 1 or x_adv is None:
        return torch.arange(len(x), device=x.device)
    now, clean = (dlr(z, y) if target is None else targeted_dlr(z, y, target) for z in (model(x_adv), model(x)))
    return (now >= share * clean).nonzero().squeeze(1)


def per_sample(values: Tensor) -> Tensor:
    """N values as N,1,1,1."""
    return values.view(-1, 1, 1, 1)
