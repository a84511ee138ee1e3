"""The adversarial patch: one square for all images, placed anywhere."""

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from robustcls.core.errors import InputError
from robustcls.core.gradients import finite, input_gradient
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits


@traits(unrestricted=True, universal=True)
def patch(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    size: float = 0.3,
    steps: int = 200,
    step_size: float = 0.05,
    batch_size: int = 32,
    rotation: float = 20.0,
    scale: float = 0.2,
    target: int | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """One square trained on all images, then placed at random on each (Brown et al. 2017, arXiv:1712.09665).

    size: side of the square as a share of the image's shorter side. rotation: up to this many degrees either way. scale: up to
    this share larger or smaller. target: the target class; any wrong class by default. Raises InputError for wrong options.
    """
    threat.check_whole_box("patch")
    if steps < 0 or batch_size < 1 or step_size <= 0:
        raise InputError(
            f"patch(steps={steps}, step_size={step_size}, batch_size={batch_size}): give 0 steps or more of a size "
            "above 0, on batches of 1 or more"
        )
    side = size * min(x.shape[2:])
    if not 0 <= scale < 1 or not 0 < size <= 1 or side * (1 - scale) < 1:
        raise InputError(
            f"patch(size={size}, scale={scale}) on {x.shape[2]}x{x.shape[3]} pixels: give a size up to 1 that leaves "
            "a pixel or more, and a scale from 0 to below 1"
        )
    labels, sign = (y, 1) if target is None else (_all_towards(target, model, x, y), -1)
    square = torch.rand(1, x.shape[1], *[math.ceil(side)] * 2, device=x.device, generator=generator)
    for step in range(steps):
        rows = torch.randperm(len(x), device=x.device, generator=generator)[:batch_size]
        grad = _gradient(model, square, x[rows], labels[rows], place(x[rows], side, rotation, scale, generator))
        square = (square + sign * step_size * (1 - step / steps) * grad.sign()).clamp(0, 1)
    return torch.cat([lay(square, part, place(part, side, rotation, scale, generator)) for part in x.split(batch_size)])


def place(x: Tensor, side: float, rotation: float, scale: float, generator: Generator | None = None) -> Tensor:
    """Place a square at random, and return each pixel's position in the square's coordinates, from -1 to 1: N,H,W,2.

    side: in pixels. The whole square lies inside the image if it fits.
    """
    n, (h, w) = len(x), x.shape[2:]
    turn, stretch, *position = torch.rand(4, n, device=x.device, generator=generator)
    angle = math.radians(rotation) * (2 * turn - 1)
    half = side / 2 * (1 + scale * (2 * stretch - 1))
    cos, sin = angle.cos(), angle.sin()
    reach = half * (cos.abs() + sin.abs())
    centre_x, centre_y = (
        (2 * share - 1) * (length / 2 - reach).clamp_min(0) for share, length in zip(position, (w, h), strict=True)
    )
    inverse = torch.stack(
        [
            cos * w / 2, sin * h / 2, -(cos * centre_x + sin * centre_y),
            -sin * w / 2, cos * h / 2, sin * centre_x - cos * centre_y,
        ], 1,
    ) / half[:, None]  # fmt: skip
    return F.affine_grid(inverse.view(n, 2, 3), [n, 1, h, w], align_corners=False)


def lay(square: Tensor, x: Tensor, grid: Tensor) -> Tensor:
    """Return the images (N,C,H,W) with the square (1,C,S,S) on them, differentiable with respect to the square."""
    covered = (grid.abs().amax(3) <= 1)[:, None]
    seen = F.grid_sample(square.expand(len(x), -1, -1, -1), grid, padding_mode="border", align_corners=False)
    return torch.where(covered, seen.clamp(0, 1), x)


def _gradient(model: nn.Module, square: Tensor, x: Tensor, y: Tensor, grid: Tensor) -> Tensor:
    def covered(square: Tensor) -> Tensor:
        images = lay(square, x, grid)
        images.register_hook(finite)  # so that one image's NaN does not spoil the gradient summed over all
        return model(images)

    return input_gradient(covered, square, y)


def _all_towards(target: int, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        num_classes = model(x[:1]).shape[1]
    if not 0 <= target < num_classes:
        raise InputError(f"patch(target={target}): give a class from 0 to {num_classes - 1}")
    return torch.full_like(y, target)
