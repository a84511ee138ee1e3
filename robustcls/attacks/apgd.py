"""Auto-PGD: projected gradient ascent with momentum that halves its own step (Croce and Hein 2020, arXiv:2003.01690).

A sample that is fooled leaves the batch at once: the steps that it no longer needs are most of the cost.
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._apgd_l1 import ascend_l1
from robustcls.attacks._survivors import Attempts, is_fooled, keep, likeliest_others, per_sample
from robustcls.core.draws import take
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import cross_entropy, dlr
from robustcls.core.threat import ThreatModel

__all__ = ["apgd_ce", "apgd_dlr", "apgd_t"]


def apgd_ce(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    early_stop: bool = True,
    start: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the cross-entropy (Croce and Hein 2020, arXiv:2003.01690).

    start: N,C,H,W, where the first run begins instead of a random point of the ball.
    """
    return _restart(model, x, y, threat, cross_entropy, steps, restarts, early_stop, start, generator)


def apgd_dlr(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    early_stop: bool = True,
    start: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690).

    start: N,C,H,W, where the first run begins instead of a random point of the ball.
    """
    return _restart(model, x, y, threat, dlr, steps, restarts, early_stop, start, generator)


def apgd_t(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    targets: int = 9,
    restarts: int = 1,
    closest: float = 1.0,
    early_stop: bool = True,
    start: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD on the targeted difference of logits ratio, towards each of the likeliest wrong classes in turn.

    Croce and Hein 2020, arXiv:2003.01690. With fewer classes there are as many targets as wrong classes. Of what no
    target fooled, the attempt that came closest is kept. closest: the first two restarts meet all survivors, the third
    those to which at most this share is left of the way from the clean image to an error, by the DLR, and for each later
    one that share is multiplied by its root. start: N,C,H,W, where the runs of the first restart begin.
    """
    if targets < 1 or restarts < 1 or not 0 < closest <= 1:
        raise InputError(
            f"apgd_t(targets={targets}, restarts={restarts}, closest={closest}): give 1 or more, and a share in (0, 1]"
        )
    with torch.no_grad():
        logits = model(x)
    likeliest, way = likeliest_others(logits, y), dlr(logits, y)  # the way is below 0 for what is right
    ascend = _ASCENTS[threat.norm]
    attempts = Attempts(model, x, y, early_stop, dlr)  # whose scale lets samples be compared
    for restart in range(restarts):
        for rank in range(min(targets, likeliest.shape[1])):
            rows = attempts.left
            if len(rows) == 0:
                return attempts.x_adv
            begin = start[rows] if start is not None and restart == 0 else None
            found = ascend(
                model, x[rows], y[rows], threat, targeted_dlr, steps, take(generator, rows),
                target=likeliest[rows, rank], start=begin, early_stop=early_stop,
            )  # fmt: skip
            attempts.add(found)
        # One start tells too little of how far a sample is. The rule sees the sample alone, so that no other decides.
        if restart > 0 and closest < 1:
            attempts.give_up_below(closest ** ((restart + 1) / 2) * way)
    return attempts.x_adv


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Target minus true logit over the spread of the largest four, or three where there are no more: N.

    The spread is the largest less the mean of the last two. With two classes the ratio is constant: the gap alone.
    Classes that are masked with -inf do not count.
    """
    logits = logits.float()
    gap = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    if logits.shape[1] == 2:
        return gap
    ordered = logits.topk(min(4, logits.shape[1]), dim=1).values
    last = ordered[:, -2:]
    if logits.shape[1] > 3:
        last = torch.where(ordered[:, 3:].isfinite(), last, ordered[:, 1:3])
    usable = ordered[:, :3].isfinite().all(1)
    return gap / torch.where(usable, ordered[:, 0] - last.mean(1) + 1e-12, 1.0)


def _restart(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    loss: Callable[..., Tensor],
    steps: int,
    restarts: int,
    early_stop: bool,
    start: Tensor | None,
    generator: Generator | None,
) -> Tensor:
    if restarts < 1:
        raise InputError(f"apgd(restarts={restarts}): give 1 or more")
    attempts = Attempts(model, x, y, early_stop)
    for restart in range(restarts):
        rows = attempts.left
        if len(rows) == 0:
            break
        begin = start[rows] if start is not None and restart == 0 else None
        ascend = _ASCENTS[threat.norm]
        draws = take(generator, rows)
        found = ascend(model, x[rows], y[rows], threat, loss, steps, draws, start=begin, early_stop=early_stop)
        if restarts == 1:
            return found
        attempts.add(found)
    return attempts.x_adv


def _ascend(
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
    """One run of Auto-PGD: for each sample the first point that fools the model, else the one of the largest loss."""
    if steps < 1:
        raise InputError(f"apgd(steps={steps}): give 1 or more")
    result = x.clone()
    period, shortest, shrink = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    start = threat.random_start(x, generator) if start is None else threat.project(start, x)
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
        fooled = is_fooled(logits, s["y"])
        if early_stop and fooled.any():
            result[s["index"][fooled]] = s["x_adv"][fooled]
            s, losses = keep(s, ~fooled), losses[~fooled]
            if len(losses) == 0:
                return result
        s["rises"] = s["rises"] + (losses > s["last"])
        s["last"] = losses
        better = losses > s["best"]
        s["best"] = torch.where(better, losses, s["best"])
        s["x_best"] = torch.where(per_sample(better), s["x_adv"], s["x_best"])
        s["grad_best"] = torch.where(per_sample(better), s["grad"], s["grad_best"])
        if i == 0:
            s["best_at_check"], s["rises"] = s["best"], torch.zeros_like(s["rises"])
        elif since_check == period:
            # Halve where the loss rose in too few steps, or where the best did not move since a check without halving.
            halve = (s["rises"] <= 0.75 * period) | (~s["halved"] & (s["best_at_check"] >= s["best"]))
            s["halved"], s["best_at_check"], s["rises"] = halve, s["best"], torch.zeros_like(s["rises"])
            s["step"] = torch.where(per_sample(halve), s["step"] / 2, s["step"])
            s["x_adv"] = torch.where(per_sample(halve), s["x_best"], s["x_adv"])
            s["grad"] = torch.where(per_sample(halve), s["grad_best"], s["grad"])
            period, since_check = max(period - shrink, shortest), 0
        if i < steps:
            momentum = 0.25 if i > 0 else 0.0
            ahead = threat.project(s["x_adv"] + s["step"] * threat.steepest(s["grad"]), s["x"])
            moved = s["x_adv"] + (1 - momentum) * (ahead - s["x_adv"]) + momentum * (s["x_adv"] - s["before"])
            s["before"], s["x_adv"] = s["x_adv"], threat.project(moved, s["x"])
            since_check += 1
    result[s["index"]] = s["x_best"]
    return result


_ASCENTS: dict[str, Callable[..., Tensor]] = {"linf": _ascend, "l2": _ascend, "l1": ascend_l1}
