"""The fast gradient sign method."""

from torch import Generator, Tensor, nn

from robustcls.attacks._goal import Goal, Loss
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits


@traits(soft_labels=True)
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    random_start: bool = False,
    step_size: float | None = None,
    loss: Loss = cross_entropy,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """One gradient step of length eps (Goodfellow et al. 2014, arXiv:1412.6572).

    With random_start and a step of 1.25 eps it is FGSM-RS (Wong et al. 2020, arXiv:2001.03994). target: N classes to be
    taken for.
    """
    step_size = threat.default_step() if step_size is None else step_size
    if step_size < 0:
        raise InputError(f"fgsm(step_size={step_size}): give 0 or more, in pixel values")
    goal = Goal.of(y, target)
    x_adv = threat.random_start(x, generator) if random_start else x
    grad = input_gradient(model, x_adv, goal.labels, goal.ascent(loss))
    return threat.project(x_adv + step_size * threat.steepest(grad), x)
