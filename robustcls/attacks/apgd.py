"""Auto-PGD: projected gradient ascent with momentum that halves its own step (Croce and Hein 2020, arXiv:2003.01690).

A sample that is fooled leaves the batch at once: the steps that it no longer needs are most of the cost.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks.restarts import worst_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import cross_entropy, dlr, margin
from robustcls.core.threat import ThreatModel

__all__ = ["apgd_ce", "apgd_dlr", "apgd_t"]

# Fooled by a margin that survives the rounding of another batch size; the share is of the largest logit.
CLEARLY = 1e-4


def apgd_ce(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the cross-entropy (Croce and Hein 2020, arXiv:2003.01690)."""
    return worst_of(model, y, (_ascend(model, x, y, threat, cross_entropy, steps, generator) for _ in range(restarts)))


def apgd_dlr(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690)."""
    return worst_of(model, y, (_ascend(model, x, y, threat, dlr, steps, generator) for _ in range(restarts)))


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    targets: int = 9,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the targeted difference of logits ratio, towards each of the likeliest wrong classes in turn.

    Croce and Hein 2020, arXiv:2003.01690. With fewer classes there are as many targets as wrong classes. Of what no
    target fooled, the attempt of the largest margin is kept.
    """
    if targets < 1:
        raise InputError(f"apgd_t(targets={targets}): give 1 or more")
    with torch.no_grad():
        likeliest = _others(model(x), y).argsort(1, descending=True)
    x_adv, largest, left = x.clone(), x.new_full((len(x),), -float("inf")), torch.arange(len(x), device=x.device)
    for rank in range(min(targets, likeliest.shape[1] - 1)):
        found = _ascend(model, x[left], y[left], threat, targeted_dlr, steps, generator, target=likeliest[left, rank])
        with torch.no_grad():
            logits = model(found)
        gap = margin(logits, y[left])
        better = gap > largest[left]
        x_adv[left[better]], largest[left[better]] = found[better], gap[better]
        left = left[~_is_fooled(logits, y[left])]
        if len(left) == 0:
            break
    return x_adv


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Target minus true logit over the spread of the largest four, or three where there are no more: N.

    The spread is the largest less the mean of the last two. With two classes the ratio is constant: the gap alone.
    """
    logits = logits.float()
    gap = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    if logits.shape[1] == 2:
        return gap
    ordered = logits.sort(dim=1, descending=True).values[:, :4]
    return gap / (ordered[:, 0] - ordered[:, -2:].mean(1) + 1e-12)


def _ascend(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    loss: Callable[..., Tensor],
    steps: int,
    generator: Generator | None,
    target: Tensor | None = None,
) -> Tensor:
    """One run of Auto-PGD: for each sample the first point that fools the model, else the one of the largest loss."""
    if steps < 1:
        raise InputError(f"apgd(steps={steps}): give 1 or more")
    result = x.clone()
    period, shortest, shrink = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    start = threat.random_start(x, generator)
    low, zeros = x.new_full((len(x),), -float("inf")), x.new_zeros(len(x))
    s = {  # the state of the samples still in the batch; each tensor's first axis is the sample
        "index": torch.arange(len(x), device=x.device), "x": x, "y": y,
        "x_adv": start, "before": start, "grad": torch.zeros_like(x), "last": low,
        "x_best": start, "grad_best": torch.zeros_like(x), "best": low, "best_at_check": low,
        "step": torch.full_like(x[:, :1, :1, :1], 2 * threat.eps), "rises": zeros, "halved": zeros.bool(),
    }  # fmt: skip
    if target is not None:
        s["target"] = target
    since_check = 0
    for i in range(steps + 1):
        labels = (s["y"],) if target is None else (s["y"], s["target"])
        logits, losses, s["grad"] = logits_and_gradient(model, s["x_adv"], loss, *labels)
        fooled = _is_fooled(logits, s["y"])
        if fooled.any():
            result[s["index"][fooled]] = s["x_adv"][fooled]
            s, losses = {name: tensor[~fooled] for name, tensor in s.items()}, losses[~fooled]
            if len(losses) == 0:
                return result
        s["rises"] = s["rises"] + (losses > s["last"])
        s["last"] = losses
        better = losses > s["best"]
        s["best"] = torch.where(better, losses, s["best"])
        s["x_best"] = torch.where(_wide(better), s["x_adv"], s["x_best"])
        s["grad_best"] = torch.where(_wide(better), s["grad"], s["grad_best"])
        if i == 0:
            s["best_at_check"], s["rises"] = s["best"], torch.zeros_like(s["rises"])
        elif since_check == period:
            # Halve where the loss rose in too few steps, or where the best did not move since a check without halving.
            halve = (s["rises"] <= 0.75 * period) | (~s["halved"] & (s["best_at_check"] >= s["best"]))
            s["halved"], s["best_at_check"], s["rises"] = halve, s["best"], torch.zeros_like(s["rises"])
            s["step"] = torch.where(_wide(halve), s["step"] / 2, s["step"])
            s["x_adv"] = torch.where(_wide(halve), s["x_best"], s["x_adv"])
            s["grad"] = torch.where(_wide(halve), s["grad_best"], s["grad"])
            period, since_check = max(period - shrink, shortest), 0
        if i < steps:
            momentum = 0.25 if i > 0 else 0.0
            ahead = threat.project(s["x_adv"] + s["step"] * threat.steepest(s["grad"]), s["x"])
            moved = s["x_adv"] + (1 - momentum) * (ahead - s["x_adv"]) + momentum * (s["x_adv"] - s["before"])
            s["before"], s["x_adv"] = s["x_adv"], threat.project(moved, s["x"])
            since_check += 1
    result[s["index"]] = s["x_best"]
    return result


def _is_fooled(logits: Tensor, y: Tensor) -> Tensor:
    return margin(logits, y) > CLEARLY * logits.float().abs().amax(1)


def _others(logits: Tensor, y: Tensor) -> Tensor:
    return logits.float().scatter(1, y[:, None], -float("inf"))


def _wide(per_sample: Tensor) -> Tensor:
    return per_sample.view(-1, 1, 1, 1)
