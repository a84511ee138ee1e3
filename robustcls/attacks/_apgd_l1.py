"""Auto-PGD in l1: steps as sparse as the best point so far, projected onto the ball and the box at once.

Croce and Hein 2021, arXiv:2103.01208.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._survivors import is_fooled, keep, per_sample
from robustcls.core.draws import Draws
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.threat import ThreatModel


def ascend_l1(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    loss: Callable[..., Tensor],
    steps: int,
    generator: Generator | None,
    *,
    target: Tensor | None = None,
    start: Tensor | None = None,
    early_stop: bool = True,
) -> Tensor:
    """One run through balls of 3, 2 and 1 eps: the first point that fools the model, else that of the largest loss.

    Croce and Hein 2021, arXiv:2103.01208. loss: of logits, y and, where given, target (N). start: N,C,H,W, instead of
    Gaussian noise. early_stop: a sample leaves with the first point in the ball of eps that fools the model; without,
    the largest loss there counts. With 3 steps or more each ball gets some.
    """
    if steps < 1:
        raise InputError(f"apgd(steps={steps}): give 1 or more")
    result, eps = x.clone(), threat.eps
    early = min(math.ceil(0.3 * steps), (steps - 1) // 2)
    begin = x + Draws(x, generator).normal(*x.shape[1:]) if start is None else start
    s = {"index": torch.arange(len(x), device=x.device), "x": x, "y": y, "x_best": begin}
    if target is not None:
        s["target"] = target
    for radius, length in ((3 * eps, early), (2 * eps, early), (eps, steps - 2 * early)):
        if length == 0:
            continue
        ball, period = replace(threat, eps=radius), max(int(0.04 * length), 1)
        s["x_adv"] = s["x_best"] = ball.project(s["x_best"], s["x"])
        s["grad"] = s["grad_best"] = torch.zeros_like(s["x"])
        s["best"], s["step"] = s["x"].new_full((len(s["x"]),), -torch.inf), s["x"].new_full((len(s["x"]),), radius)
        s["changed"] = _changed(s["x_adv"], s["x"])
        if radius > 2 * eps:  # from the clean image, a step of one pixel would never grow
            s["changed"] = s["changed"].clamp_min(0.3 * x[0].numel())
        for i in range(length + 1):
            labels = (s["y"],) if target is None else (s["y"], s["target"])
            logits, losses, s["grad"] = logits_and_gradient(model, s["x_adv"], loss, *labels)
            if early_stop and (fooled := is_fooled(logits, s["y"])).any():
                fooled &= threat.distance(s["x_adv"], s["x"]) <= eps + 1e-6
                result[s["index"][fooled]] = s["x_adv"][fooled]
                s, losses = keep(s, ~fooled), losses[~fooled]
                if len(losses) == 0:
                    return result
            better = losses > s["best"]
            s["best"] = torch.where(better, losses, s["best"])
            s["x_best"] = torch.where(per_sample(better), s["x_adv"], s["x_best"])
            s["grad_best"] = torch.where(per_sample(better), s["grad"], s["grad_best"])
            if i == length:
                break
            if i > 0 and i % period == 0:
                # Long steps again from the best point where it became sparser, shorter ones elsewhere.
                changed = _changed(s["x_best"], s["x"])
                sparser = changed < 0.95 * s["changed"]
                s["changed"] = changed
                s["step"] = torch.where(sparser, radius, (s["step"] / 1.5).clamp_min(radius / 10))
                s["x_adv"] = torch.where(per_sample(sparser), s["x_best"], s["x_adv"])
                s["grad"] = torch.where(per_sample(sparser), s["grad_best"], s["grad"])
            ahead = per_sample(s["step"]) * _sparse_direction(s["grad"], s["changed"] / 1.5)
            s["x_adv"] = ball.project(s["x_adv"] + ahead, s["x"])
    result[s["index"]] = s["x_best"]
    return result


def _changed(x_adv: Tensor, x: Tensor) -> Tensor:
    return (x_adv != x).flatten(1).sum(1)


def _sparse_direction(grad: Tensor, count: Tensor) -> Tensor:
    """The signs of the `count` (N) largest coordinates of each gradient, over their number: N,C,H,W."""
    size = grad.flatten(1).abs()
    count = count.ceil().long().clamp(1, size.shape[1])
    smallest = size.topk(int(count.max()), dim=1).values.gather(1, count[:, None] - 1)
    direction = grad.sign() * (size >= smallest).view_as(grad)
    return direction / per_sample(direction.flatten(1).abs().sum(1).clamp_min(1))
