"""Noise: what an attacker reaches who knows nothing of the model but its answers."""

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._survivors import is_fooled, keep
from robustcls.core.draws import Draws, take
from robustcls.core.errors import InputError
from robustcls.core.losses import margin
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits


@traits(gradients=False)
@torch.no_grad()
def noise(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    draws: int = 10,
    early_stop: bool = True,
    generator: Generator | None = None,
) -> Tensor:
    """The worst of some random points, drawn in turn from the ball and from its surface: a baseline without gradients.

    early_stop: the first point that fools will do; otherwise the largest margin of all draws is kept.
    """
    if draws < 1:
        raise InputError(f"noise(draws={draws}): give 1 or more")
    x_adv, logits = x.clone(), model(x)
    s = {"index": torch.arange(len(x), device=x.device), "x": x, "y": y, "best": margin(logits, y)}
    for draw in range(draws):
        if early_stop and (fooled := is_fooled(logits, s["y"])).any():
            s, generator = keep(s, ~fooled), take(generator, ~fooled)
            if len(s["y"]) == 0:
                break
        point = _on_surface(threat, s["x"], generator) if draw % 2 else threat.random_start(s["x"], generator)
        logits = model(point)
        gap = margin(logits, s["y"])
        better = gap > s["best"]
        s["best"] = torch.maximum(s["best"], gap)
        x_adv[s["index"][better]] = point[better]
    return x_adv


def _on_surface(threat: ThreatModel, x: Tensor, generator: Generator | None) -> Tensor:
    direction = threat.steepest(Draws(x, generator).normal(*x.shape[1:]))
    return threat.project(x + threat.eps * direction, x)
