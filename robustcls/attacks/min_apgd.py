"""The smallest radius at which Auto-PGD succeeds, by bisection for each sample: the minimal APGD of AttackBench.

What differs from adv-lib's: a run begins where the one before it ended, projected on the new ball; the first radius is
twice the linearised distance of the boundary, and is doubled until a run succeeds; a run ends with its first success,
whose own distance is the next bound.
"""

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import per_sample
from robustcls.attacks._goal import Goal
from robustcls.attacks._nearest import Nearest, find_starts, lead, minimum_norm
from robustcls.attacks.apgd import Ascent
from robustcls.core.draws import take
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import dlr
from robustcls.core.threat import ThreatModel


@minimum_norm("linf", "l2", "l1", positive=("steps", "radii"))
def min_apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 25,
    radii: int = 20,
    others: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD by the DLR at one radius after another, halving the bracket of each sample (Cina et al. 2024, arXiv:2404.19460).

    steps: of each run. radii: how many runs. others: M,C,H,W, images to begin from where no run succeeds; x unless given.
    """
    ascent, nearest = Ascent(model, threat, Goal(y), dlr, steps, early_stop=True), Nearest(x, y, threat)
    _, ahead, grad = logits_and_gradient(model, x, lead, y)
    farthest = threat.distance(torch.maximum(x, 1 - x), torch.zeros_like(x))
    _bisect(ascent, nearest, x, (2 * ahead.abs() / threat.dual(grad)).nan_to_num(nan=torch.inf).minimum(farthest), radii)
    left = ~nearest.found
    if left.any():
        x, y, own = x[left], y[left], take(generator, left)
        again = find_starts(model, x, y, threat, own, x if others is None else others)
        if again.found.any():
            _bisect(ascent, again, again.x_adv, (again.distance / 2).minimum(farthest[left]), radii)
            nearest.x_adv[left] = again.x_adv
    return nearest.x_adv


def _bisect(ascent: Ascent, nearest: Nearest, x_adv: Tensor, radius: Tensor, radii: int) -> None:
    """Runs from x_adv, each at its radius (N) first; `nearest` takes what they find."""
    x, y, low = nearest.x, nearest.y, torch.zeros_like(radius)
    farthest = ascent.threat.distance(torch.maximum(x, 1 - x), torch.zeros_like(x))
    for _ in range(radii):
        x_adv = ascent.run(x, y, None, x_adv, None, radius)
        with torch.no_grad():
            success = nearest.add(x_adv, ascent.model(x_adv))
        low = torch.where(success, low, radius).minimum(nearest.distance)
        radius = torch.where(nearest.found, (low + nearest.distance) / 2, 2 * radius).minimum(farthest)
