"""Projected gradient descent."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._survivors import Attempts, is_fooled, keep, per_sample
from robustcls.core.draws import take
from robustcls.core.errors import InputError
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits


@traits(soft_labels=True)
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    momentum: float = 0.0,
    restarts: int = 1,
    random_start: bool = True,
    early_stop: bool = False,
    loss=cross_entropy,
    generator: Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the loss from a random start (Madry et al. 2017, arXiv:1706.06083).

    step_size: in pixel values; 2.5 eps / steps unless given. momentum: decay of the accumulated gradient (Dong et al.
    2017, arXiv:1710.06081). restarts: the worst of so many runs is kept. early_stop: a sample leaves with the first
    iterate that fools the model; without, the last iterate counts.
    """
    if steps < 1 or restarts < 1:
        raise InputError(f"pgd(steps={steps}, restarts={restarts}): give 1 or more of each")
    if momentum < 0:
        raise InputError(f"pgd(momentum={momentum}): give 0 for none, or a decay such as 1.0")
    if y.is_floating_point() and (early_stop or restarts > 1):
        raise InputError("pgd needs one label an image for early_stop and restarts: leave them out")
    step_size = 2.5 * threat.eps / steps if step_size is None else step_size
    attempts = Attempts(model, x, y, early_stop)
    for _ in range(restarts):
        rows = attempts.left
        if len(rows) == 0:
            break
        start = threat.random_start(x[rows], take(generator, rows)) if random_start else x[rows]
        found = _ascend(model, x[rows], y[rows], threat, loss, steps, step_size, momentum, start, early_stop)
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
    step_size: float,
    momentum: float,
    start: Tensor,
    early_stop: bool,
) -> Tensor:
    """One run from `start`: for each sample the last iterate or, with early_stop, the first that fools the model."""
    result = start.clone() if early_stop else start
    s = {  # the state of the samples still in the batch
        "index": torch.arange(len(x), device=x.device), "x": x, "y": y, "x_adv": start,
        "velocity": torch.zeros_like(x),
    }  # fmt: skip
    for _ in range(steps):
        logits, _, grad = logits_and_gradient(model, s["x_adv"], loss, s["y"])
        if early_stop and (fooled := is_fooled(logits, s["y"])).any():
            result[s["index"][fooled]] = s["x_adv"][fooled]
            s, grad = keep(s, ~fooled), grad[~fooled]
            if len(grad) == 0:
                return result
        if momentum > 0:
            mean = per_sample(grad.abs().flatten(1).mean(1)).clamp_min(1e-30)
            grad = s["velocity"] = momentum * s["velocity"] + grad / mean
        s["x_adv"] = threat.project(s["x_adv"] + step_size * threat.steepest(grad), s["x"])
    if not early_stop:
        return s["x_adv"]
    result[s["index"]] = s["x_adv"]
    return result
