"""Projected gradient descent."""

from torch import Generator, Tensor, nn

from robustcls.attacks.restarts import worst_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
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
    restarts: int = 1,
    random_start: bool = True,
    loss=cross_entropy,
    generator: Generator | None = None,
) -> Tensor:
    """Projected gradient ascent on the loss from a random start (Madry et al. 2017, arXiv:1706.06083).

    step_size: in pixel values; 2.5 eps / steps unless given. restarts: the worst of so many runs is kept.
    """
    if steps < 1 or restarts < 1:
        raise InputError(f"pgd(steps={steps}, restarts={restarts}): give 1 or more of each")
    step_size = 2.5 * threat.eps / steps if step_size is None else step_size

    def run() -> Tensor:
        x_adv = threat.random_start(x, generator) if random_start else x
        for _ in range(steps):
            grad = input_gradient(model, x_adv, y, loss)
            x_adv = threat.project(x_adv + step_size * threat.steepest(grad), x)
        return x_adv

    return run() if restarts == 1 else worst_of(model, y, (run() for _ in range(restarts)))
