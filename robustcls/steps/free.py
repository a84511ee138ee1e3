"""Free adversarial training."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.objective import Loss

if TYPE_CHECKING:
    from robustcls.training.run import Run


def free(run: "Run", x: Tensor, y: Tensor, *, replays: int = 4) -> Loss:
    """Replays each batch, and lets every backward pass update both weights and perturbation (arXiv:1904.12843).

    Shafahi et al. 2019. The perturbation, clipped with its images to the box, is kept from batch to batch. An epoch costs
    `replays` times a plain one: divide --epochs by it.
    """
    if replays < 1:
        raise InputError(f"free(replays={replays}): give 1 or more")
    if run.config.accumulate > 1:
        raise InputError("step free moves one perturbation for the whole batch: leave out --accumulate")
    delta = run.state.get("delta")
    if delta is None or delta.shape != x.shape:
        delta = torch.zeros_like(x)
    for _ in range(replays):
        x_adv = run.threat.project(x + delta, x).requires_grad_()
        loss = run.gradient(x, y, lambda *_, x_adv=x_adv, **__: x_adv)
        run.update()
        if x_adv.grad is None:
            raise InputError("step free needs an objective that attacks: leave out --objective standard")
        ascent = run.threat.eps * run.threat.steepest(x_adv.grad)
        delta = run.threat.project(x_adv.detach() + ascent, x) - x
    run.state["delta"] = delta
    return loss
