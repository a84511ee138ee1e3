"""The smallest radius at which targeted Auto-PGD succeeds, by bisection for each sample: AttackBench's minimal APGD.

What differs from adv-lib's `minimal_apgd`, whose runs are independent, begin at random and take the same class or all:

- A run begins where the one before it ended, projected on the new ball, and ends with its first success. The first radius
  is twice the linearised distance of the nearest class, and is doubled until a run succeeds.
- Once the bracket is narrow, the next class in the order of the linearised distance (Melamed et al. 2024, arXiv:2407.02240)
  has its try, a little nearer than the nearest example; in the end the class of the nearest again, ever nearer to it.

Beside adv-lib's and foolbox's attacks at equal passes: experiments/contests/minimum.py.
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

NARROW, NARROWEST = 0.97, 0.998  # a bracket so narrow is left for the next class, and in the end for a new one
WIDE = 0.5  # a new bracket


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
    """Targeted Auto-PGD at one radius after another, halving the bracket of each sample (Cina et al. 2024, arXiv:2404.19460).

    steps: of each run. radii: how many runs. targets: wrong classes that are tried, the nearest of a linear model first.
    others: M,C,H,W, images to begin from where no run succeeds; x unless given.
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
    """Runs from x_adv, the first at these radii (N), towards the classes (N,T) in turn; `nearest` takes what they find."""
    x, y, turn = nearest.x, nearest.y, torch.zeros_like(nearest.y)
    count = classes.shape[1]
    low, best = torch.zeros_like(radius), classes[:, 0]  # the class of the nearest
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
