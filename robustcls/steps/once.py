"""The plain step."""

from typing import TYPE_CHECKING

from torch import Tensor

from robustcls.core.objective import Loss

if TYPE_CHECKING:
    from robustcls.training.run import Run


def once(run: "Run", x: Tensor, y: Tensor) -> Loss:
    """One update by the gradient of the objective on one batch."""
    loss = run.gradient(x, y, run.attack)
    run.update()
    return loss
