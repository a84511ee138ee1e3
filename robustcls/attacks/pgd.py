"""Projected gradient descent."""

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks.survivors import Attempts, is_fooled, keep
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient, logits_and_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.threat import ThreatModel


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
    step_size = 2.5 * threat.eps / steps if step_size is None else step_size
    ascend = _ascend_survivors if early_stop else _ascend
    attempts = Attempts(model, x, y, early_stop)
    for _ in range(restarts):
        rows = attempts.left
        if len(rows) == 0:
            break
        begin = threat.random_start(x[rows], generator) if random_start else x[rows]
        found = ascend(model, begin, x[rows], y[rows], threat, loss, steps, step_size, momentum)
        if restarts == 1:
            return found
        attempts.add(found)
    return attempts.x_adv


def _ascend(model, x_adv, x, y, threat, loss, steps, step_size, momentum) -> Tensor:
    velocity = torch.zeros_like(x)
    for _ in range(steps):
        velocity = _accelerate(velocity, input_gradient(model, x_adv, y, loss), momentum)
        x_adv = threat.project(x_adv + step_size * threat.steepest(velocity), x)
    return x_adv


def _ascend_survivors(model, x_adv, x, y, threat, loss, steps, step_size, momentum) -> Tensor:
    result = x_adv.clone()
    s = {
        "index": torch.arange(len(x), device=x.device),
        "x": x,
        "y": y,
        "x_adv": x_adv,
        "velocity": torch.zeros_like(x),
    }
    for _ in range(steps):
        logits, _, grad = logits_and_gradient(model, s["x_adv"], loss, s["y"])
        fooled = is_fooled(logits, s["y"])
        if fooled.any():
            result[s["index"][fooled]] = s["x_adv"][fooled]
            s, grad = keep(s, ~fooled), grad[~fooled]
            if len(grad) == 0:
                return result
        s["velocity"] = _accelerate(s["velocity"], grad, momentum)
        s["x_adv"] = threat.project(s["x_adv"] + step_size * threat.steepest(s["velocity"]), s["x"])
    result[s["index"]] = s["x_adv"]
    return result


def _accelerate(velocity: Tensor, grad: Tensor, momentum: float) -> Tensor:
    if momentum == 0:
        return grad
    return momentum * velocity + grad / grad.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
