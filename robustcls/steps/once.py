"""The plain training step."""

from torch import Tensor

from robustcls.core.objective import Loss, StepContext


def once(state: StepContext, x: Tensor, y: Tensor) -> Loss:
    """One update with the gradient of the objective on one batch."""
    loss = state.gradient(x, y, state.attack)
    state.update()
    return loss
