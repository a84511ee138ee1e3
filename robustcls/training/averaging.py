"""Averages of the weights over the course of training."""

import copy

import torch
from torch import nn


class Ema:
    """Exponential moving average of a model's weights and statistics, in fp32 (Izmailov et al. 2018, arXiv:1803.05407).

    The decay starts low and rises to its value, so that the first random weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([average for average, _ in floats], [weight for _, weight in floats], 1 - decay)
        for average, weight in pairs:
            if not average.is_floating_point():
                average.copy_(weight)
