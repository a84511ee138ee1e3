"""Attacks of foolbox (Rauber et al. 2017, arXiv:1707.04131): minimum-norm, decision-based, and image transformations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import per_sample
from robustcls.attacks._foolbox import run_foolbox
from robustcls.attacks._nearest import check_norm, check_positive
from robustcls.core.errors import InputError
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

__all__ = ["blur", "boundary", "contrast", "ead", "hopskipjump", "salt_and_pepper", "spatial"]


@traits(minimum_norm=True)
def ead(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    confidence: float = 0.0,
    initial_const: float = 1e-3,
    binary_search_steps: int = 9,
    step_size: float = 0.01,
    regularization: float = 0.01,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """The elastic-net attack, whose soft thresholds give sparse perturbations (Chen et al. 2017, arXiv:1709.04114).

    regularization: the threshold. confidence, initial_const: as in cw. target: N target classes.
    """
    check_norm("ead", threat, "l1")
    check_positive(
        "ead", steps=steps, initial_const=initial_const, binary_search_steps=binary_search_steps, step_size=step_size,
        regularization=regularization,
    )  # fmt: skip
    if confidence < 0:
        raise InputError(f"ead(confidence={confidence}): give 0 or more")
    from foolbox.attacks import EADAttack

    attack = EADAttack(
        binary_search_steps=binary_search_steps, steps=steps, initial_stepsize=step_size, confidence=confidence,
        initial_const=initial_const, regularization=regularization, decision_rule="L1", abort_early=False,
    )  # fmt: skip
    return run_foolbox(attack, model, x, y, threat, generator, target=target, shows_all=True)


@traits(gradients=False, minimum_norm=True)
def boundary(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 5000,
    spherical_step: float = 0.01,
    source_step: float = 0.01,
    others: Tensor | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """A random walk along the boundary towards the image, using predicted labels only (Brendel et al. 2017, arXiv:1712.04248).

    spherical_step, source_step: the first step size around the image and towards it, as shares of the distance. others:
    M,C,H,W, images to begin from if noise is not adversarial; x by default. A sample without any starting point is returned
    unchanged. target: N target classes.
    """
    check_norm("boundary", threat, "l2")
    check_positive("boundary", steps=steps, spherical_step=spherical_step, source_step=source_step)
    from foolbox.attacks import BoundaryAttack

    attack = BoundaryAttack(steps=steps, spherical_step=spherical_step, source_step=source_step)
    return run_foolbox(attack, model, x, y, threat, generator, target=target, others=x if others is None else others)


@traits(gradients=False, minimum_norm=True)
def hopskipjump(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 32,
    initial_evaluations: int = 100,
    max_evaluations: int = 10000,
    others: Tensor | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Steps along gradients at the boundary, estimated from predicted labels only (Chen et al. 2019, arXiv:1904.02144).

    initial_evaluations: queries for the first estimate; the number grows with the square root of the step number, up to
    max_evaluations. others: as in boundary. target: N target classes.
    """
    check_norm("hopskipjump", threat, "linf", "l2")
    check_positive("hopskipjump", steps=steps, initial_evaluations=initial_evaluations, max_evaluations=max_evaluations)
    from foolbox.attacks import HopSkipJumpAttack

    class OneByOne(HopSkipJumpAttack):
        """Estimates gradients query by query: foolbox 3.3.4 keeps the noise of all queries in memory, and normalises all
        samples of a batch by one common length."""

        def approximate_gradients(self, is_adversarial: Callable, x_advs: Any, steps: int, delta: Any) -> Any:
            x, radius = x_advs.raw, per_sample(delta.raw)
            votes, voted, drawn = torch.zeros_like(radius), torch.zeros_like(x), torch.zeros_like(x)
            for _ in range(steps):
                noise = draw(x)
                moved = (x + radius * noise / _length(noise)).clamp(0, 1)
                direction = (moved - x) / (radius + 1e-8)
                vote = per_sample(is_adversarial(type(x_advs)(moved)).raw) * 2.0 - 1
                votes, voted, drawn = votes + vote, voted + vote * direction, drawn + direction
            mean = votes / steps
            grad = voted - torch.where(mean.abs() == 1, 0.0, mean) * drawn
            return type(x_advs)(grad / _length(grad))

    draws: dict[str, Callable[[Tensor], Tensor]] = {
        "linf": lambda x: 2 * torch.rand_like(x) - 1,
        "l2": torch.randn_like,
    }
    draw = draws[threat.norm]
    attack = OneByOne(
        steps=steps, initial_gradient_eval_steps=initial_evaluations, max_gradient_eval_steps=max_evaluations,
        constraint=threat.norm,  # type: ignore[arg-type]
    )  # fmt: skip
    return run_foolbox(attack, model, x, y, threat, generator, target=target, others=x if others is None else others)


@traits(gradients=False, unrestricted=True)
def spatial(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    max_rotation: float = 30.0,
    max_translation: float = 3.0,
    rotations: int = 5,
    translations: int = 5,
    draws: int | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Rotations and translations, from a grid or at random (Engstrom et al. 2017, arXiv:1712.02779).

    max_rotation: in degrees, either way. max_translation: in pixels, either way. rotations, translations: size of the grid,
    translations along each axis. draws: use this many random transformations instead of the grid. target: N target classes.
    """
    threat.check_whole_box("spatial")
    check_positive("spatial", rotations=rotations, translations=translations, draws=1 if draws is None else draws)
    from foolbox.attacks import SpatialAttack

    attack = SpatialAttack(
        max_translation=max_translation, max_rotation=max_rotation, num_translations=translations,
        num_rotations=rotations, grid_search=draws is None, random_steps=draws or 0,
    )  # fmt: skip
    return run_foolbox(attack, model, x, y, threat, generator, target=target, untold=True)


@traits(gradients=False, minimum_norm=True)
def salt_and_pepper(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 1000,
    across_channels: bool = True,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Increasingly many black and white pixels, then fewer again (foolbox, Rauber et al. 2017, arXiv:1707.04131).

    across_channels: change a pixel in all channels or in none. target: N target classes.
    """
    check_positive("salt_and_pepper", steps=steps)
    from foolbox.attacks import SaltAndPepperNoiseAttack

    attack = SaltAndPepperNoiseAttack(steps=steps, across_channels=across_channels)
    return run_foolbox(attack, model, x, y, threat, generator, target=target)


@traits(gradients=False, minimum_norm=True)
def blur(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 50,
    max_sigma: float | None = None,
    target: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Gaussian blur of growing width (foolbox, Rauber et al. 2017, arXiv:1707.04131).

    max_sigma: the last width in pixels; the image's longer side by default. The filter runs on the CPU.
    target: N target classes.
    """
    check_positive("blur", steps=steps, max_sigma=1.0 if max_sigma is None else max_sigma)
    from foolbox.attacks import GaussianBlurAttack

    attack = GaussianBlurAttack(steps=steps, max_sigma=max_sigma)
    return run_foolbox(attack, model, x, y, threat, generator, target=target, untold=True)


@traits(gradients=False, minimum_norm=True)
def contrast(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    target: float = 0.5,
    generator: Generator | None = None,
) -> Tensor:
    """Decreasing contrast, down to a uniform grey of value `target` (foolbox, Rauber et al. 2017, arXiv:1707.04131)."""
    check_positive("contrast", steps=steps)
    if not 0 <= target <= 1:
        raise InputError(f"contrast(target={target}): give a grey value from 0 to 1")
    from foolbox.attacks import LinearSearchContrastReductionAttack

    return run_foolbox(LinearSearchContrastReductionAttack(steps=steps, target=target), model, x, y, threat, generator)


def _length(delta: Tensor) -> Tensor:
    return per_sample(delta.flatten(1).norm(dim=1).clamp_min(1e-12))
