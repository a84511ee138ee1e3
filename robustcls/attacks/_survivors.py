"""Samples that are fooled leave the batch: the steps that they no longer need are most of an attack's cost."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from robustcls.core.losses import margin, rival_scale

# Fooled by a margin that survives the rounding of another batch size; the share is of the two logits compared.
CLEARLY = 3e-5


def is_fooled(logits: Tensor, y: Tensor) -> Tensor:
    """N, clearly misclassified. logits: N,K; y: N."""
    return margin(logits, y) > CLEARLY * rival_scale(logits, y)


def keep(state: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The state of an attack for these rows (N, bool) alone; each tensor's first axis is the sample."""
    return {name: tensor[rows] for name, tensor in state.items()}


def likeliest_others(logits: Tensor, y: Tensor) -> Tensor:
    """The wrong classes of each sample from the likeliest on: N,K-1."""
    others = logits.float().scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, :-1]


def per_sample(values: Tensor) -> Tensor:
    """N values as N,1,1,1."""
    return values.view(-1, 1, 1, 1)


class Attempts:
    """The attempt on each sample that came closest to fooling the model, and the samples still worth another."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        early_stop: bool,
        measure: Callable[[Tensor, Tensor], Tensor] = margin,
    ) -> None:
        """early_stop: a fooled sample is not worth another attempt. measure: of closeness, by logits and labels."""
        self.model, self.y, self.early_stop, self.measure = model, y, early_stop, measure
        self.x_adv, self.closeness = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        self.left = torch.arange(len(x), device=x.device)

    @torch.no_grad()
    def add(self, x_adv: Tensor) -> None:
        """Attempts on the samples that are left."""
        logits, y = self.model(x_adv), self.y[self.left]
        closeness = self.measure(logits, y)
        better = closeness > self.closeness[self.left]
        self.x_adv[self.left[better]] = x_adv[better]
        self.closeness[self.left[better]] = closeness[better]
        if self.early_stop:
            self.left = self.left[~is_fooled(logits, y)]

    def give_up_below(self, least: Tensor) -> None:
        """On samples whose closest attempt is less close than `least` (N)."""
        self.left = self.left[self.closeness[self.left] >= least[self.left]]
