"""Free adversarial training."""

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.objective import Loss, StepContext
from robustcls.core.traits import traits


@traits(makes_examples=True)
def free(state: StepContext, x: Tensor, y: Tensor, *, replays: int = 4) -> Loss:
    """Train `replays` times on each batch; every backward pass updates both weights and perturbation (arXiv:1904.12843).

    Shafahi et al. 2019. The perturbation is kept from batch to batch, after clipping to the ball and to images in [0, 1]. An
    epoch costs `replays` times as much as a plain one: divide --epochs by that number.
    """
    if replays < 1:
        raise InputError(f"free(replays={replays}): give 1 or more")
    if state.accumulate > 1:
        raise InputError("step free updates one perturbation for the whole batch: leave out `accumulate`")
    delta = state.state.get("delta")
    if delta is None or delta.shape != x.shape:
        delta = torch.zeros_like(x)
    for _ in range(replays):
        x_adv = state.threat.project(x + delta, x).requires_grad_()
        loss = state.gradient(x, y, lambda *_, x_adv=x_adv, **__: x_adv)
        state.update()
        if x_adv.grad is None:
            raise InputError('step free needs an objective that attacks: leave out `objective="standard"`')
        ascent = state.threat.eps * state.threat.steepest(x_adv.grad)
        delta = state.threat.project(x_adv.detach() + ascent, x) - x
    state.state["delta"] = delta
    return loss
