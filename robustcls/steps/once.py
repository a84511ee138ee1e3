"""The plain step."""

from typing import TYPE_CHECKING

from torch import Tensor

from robustcls.objectives.loss import Loss

if TYPE_CHECKING:
    from robustcls.training.run import Run


def once(run: "Run", x: Tensor, y: Tensor) -> Loss:
    """One update by the gradient of the objective on one batch."""
    with run.autocast():
        loss = run.objective(run.model, x, y, run.attack)
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss.total).backward()
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return loss
