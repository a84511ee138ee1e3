"""The smallest radius at which targeted Auto-PGD succeeds, found per sample by bisection: AttackBench's minimal APGD.

The runs of adv-lib's `minimal_apgd` are independent, begin at random points, and aim at the same class or all. Here:

- A run begins where the previous one ended, projected onto the new ball, and ends with its first success. The first radius
  is twice the linearised distance to the nearest class, and it is doubled until a run succeeds.
- Once the bracket is narrow, the next class in the order of linearised distance (Melamed et al. 2024, arXiv:2407.02240) is
  tried at a radius slightly below the best so far. After the last class, the class of the nearest example is tried again, at
  radii ever closer to the best.

Comparison with adv-lib's and foolbox's attacks at equal numbers of passes: experiments/contests/minimum.py.
"""

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import per_sample
from robustcls.attacks._goal import Goal
from robustcls.attacks._nearest import Nearest, find_starts, minimum_norm
from robustcls.attacks.apgd import Ascent
from robustcls.attacks.malt import nearest_classes
from robustcls.core.draws import take
from robustcls.core.losses import targeted_dlr
from robustcls.core.threat import ThreatModel

NARROW, NARROWEST = 0.97, 0.998  # low / high at which a bracket is done, and the same after the last class
WIDE = 0.5  # low / high of a new bracket


@minimum_norm("linf", "l2", "l1", positive=("steps", "radii", "targets"))
def min_apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 20,
    radii: int = 25,
    targets: int = 9,
    others: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Targeted Auto-PGD at a sequence of radii that bisects each sample's minimum (Cina et al. 2024, arXiv:2404.19460).

    steps: of each run. radii: number of runs. targets: number of wrong classes tried, nearest by linearised distance first.
    others: M,C,H,W, images to begin from for samples on which no run succeeds; x by default.
    """
    ascent = Ascent(model, threat, Goal(y), targeted_dlr, steps, early_stop=True)
    nearest, (classes, distances) = Nearest(x, y, threat), nearest_classes(model, x, y, threat)
    classes = classes[:, :targets]
    _bisect(ascent, nearest, x, 2 * distances[:, 0].abs(), classes, radii)
    left = ~nearest.found
    if left.any():
        x, y, own = x[left], y[left], take(generator, left)
        start = find_starts(model, x, y, threat, own, x if others is None else others)
        if start.found.any():
            _bisect(ascent, start, start.x_adv, start.distance / 2, classes[left], radii)
            nearest.x_adv[left] = start.x_adv
    return nearest.x_adv


def _bisect(ascent: Ascent, nearest: Nearest, x_adv: Tensor, radius: Tensor, classes: Tensor, radii: int) -> None:
    """Run from x_adv, first at these radii (N), towards the classes (N,T) in turn, and add the results to `nearest`."""
    x, y, turn = nearest.x, nearest.y, torch.zeros_like(nearest.y)
    count = classes.shape[1]
    low, best = torch.zeros_like(radius), classes[:, 0]  # best: the class of the nearest example so far
    farthest = ascent.threat.distance(torch.maximum(x, 1 - x), torch.zeros_like(x))
    for _ in range(radii):
        radius = radius.minimum(farthest)
        own = classes.gather(1, turn.clamp_max(count - 1)[:, None]).squeeze(1)
        other = torch.where(turn < count, own, best)
        x_adv = ascent.run(x, y, other, x_adv, None, radius)
        before = nearest.distance
        with torch.no_grad():
            success = nearest.add(x_adv, ascent.model(x_adv))
        best = torch.where(nearest.distance < before, other, best)
        low = torch.where(success, low, radius).minimum(nearest.distance)
        done = nearest.found & (low >= torch.where(turn < count, NARROW, NARROWEST) * nearest.distance)
        turn = turn + done
        last = turn >= count
        nearer = torch.where(last, NARROWEST, NARROW) * nearest.distance
        low = torch.where(done, WIDE * nearest.distance, low)
        radius = torch.where(done, nearer, torch.where(nearest.found, (low + nearest.distance) / 2, 2 * radius))
        x_adv = torch.where(per_sample(done), torch.where(per_sample(last), nearest.x_adv, x), x_adv)
