"""Single-step attacks: the fast gradient sign method (FGSM) and, for training, Noise-FGSM."""

from torch import Generator, Tensor, nn

from robustcls.attacks._goal import Goal, Loss
from robustcls.core.errors import InputError
from robustcls.core.gradients import input_gradient
from robustcls.core.losses import cross_entropy
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

__all__ = ["fgsm", "n_fgsm"]


@traits(soft_labels=True, mask=True)
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

    With random_start and a step_size of 1.25 eps this is FGSM-RS (Wong et al. 2020, arXiv:2001.03994). step_size: in pixel
    values; eps by default. target: N target classes.
    """
    step_size = threat.default_step() if step_size is None else step_size
    if step_size < 0:
        raise InputError(f"fgsm(step_size={step_size}): give 0 or more, in pixel values")
    goal = Goal.of(y, target)
    x_adv = threat.random_start(x, generator) if random_start else x
    grad = input_gradient(model, x_adv, goal.labels, goal.ascent(loss))
    return threat.project(x_adv + step_size * threat.steepest(grad), x)


@traits(training_only=True, soft_labels=True)
def n_fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    noise: float = 2.0,
    step_size: float | None = None,
    loss: Loss = cross_entropy,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """One gradient step from strong noise, not projected back (de Jorge et al. 2022, arXiv:2202.01181).

    For training only: the images lie up to noise * eps + step_size from the clean ones. noise: radius of the uniform noise,
    in multiples of eps. step_size: in pixel values; eps by default. target: N target classes.
    """
    step_size = threat.default_step() if step_size is None else step_size
    if noise < 0 or step_size < 0:
        raise InputError(f"n_fgsm(noise={noise}, step_size={step_size}): give 0 or more of each")
    goal = Goal.of(y, target)
    x_noisy = threat.at(noise * threat.eps).random_start(x, generator)
    grad = input_gradient(model, x_noisy, goal.labels, goal.ascent(loss))
    return (x_noisy + step_size * threat.steepest(grad)).clamp(0, 1)
