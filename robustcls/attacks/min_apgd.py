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
from robustcls.attacks.apgd import Ascent, targeted_dlr
from robustcls.core.draws import take
from robustcls.core.gradients import logits_and_gradient
from robustcls.core.losses import wrong_classes
from robustcls.core.threat import ThreatModel

RANKED = 9  # wrong classes of the largest logits
NARROW, NARROWEST, WIDE = 0.97, 0.998, 0.5  # a bracket so narrow is left for the next class, where it is so wide again


@minimum_norm("linf", "l2", "l1", positive=("steps", "radii"))
def min_apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 25,
    radii: int = 20,
    targets: int = 5,
    others: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Auto-PGD by the DLR at one radius after another, halving the bracket of each sample (Cina et al. 2024, arXiv:2404.19460).

    steps: of each run. radii: how many runs. others: M,C,H,W, images to begin from where no run succeeds; x unless given.
    """
    ascent, nearest = Ascent(model, threat, Goal(y), targeted_dlr, steps, early_stop=True), Nearest(x, y, threat)
    classes, distance = _by_distance(model, x, y, threat)
    _bisect(ascent, nearest, x, 2 * distance, classes, targets, radii)
    left = ~nearest.found
    if left.any():
        x, y, own = x[left], y[left], take(generator, left)
        again = find_starts(model, x, y, threat, own, x if others is None else others)
        if again.found.any():
            _bisect(ascent, again, again.x_adv, again.distance / 2, classes[left], targets, radii)
            nearest.x_adv[left] = again.x_adv
    return nearest.x_adv


def _bisect(ascent: Ascent, nearest: Nearest, x_adv: Tensor, radius: Tensor, classes: Tensor, targets: int, radii: int) -> None:
    """Runs from x_adv, each at its radius (N) first, towards its classes (N,T) in turn; `nearest` takes what they find."""
    x, y = nearest.x, nearest.y
    farthest = ascent.threat.distance(torch.maximum(x, 1 - x), torch.zeros_like(x))
    low, radius, turn = torch.zeros_like(radius), radius.minimum(farthest), torch.zeros_like(y)
    count = min(classes.shape[1], targets)
    best = classes[:, 0]  # the class of the nearest
    for _ in range(radii):
        other = torch.where(turn < count, classes.gather(1, turn.clamp_max(count - 1)[:, None]).squeeze(1), best)
        x_adv = ascent.run(x, y, other, x_adv, None, radius)
        before = nearest.distance
        with torch.no_grad():
            success = nearest.add(x_adv, ascent.model(x_adv))
        best = torch.where(nearest.distance < before, other, best)
        low = torch.where(success, low, radius).minimum(nearest.distance)
        narrow = torch.where(turn < count, NARROW, NARROWEST)
        done = nearest.found & (low >= narrow * nearest.distance)  # or none was found yet
        turn = turn + done
        last = turn >= count
        low = torch.where(done, WIDE * nearest.distance, low)
        middle = torch.where(done, torch.where(last, NARROWEST, NARROW) * nearest.distance, (low + nearest.distance) / 2)
        radius = torch.where(nearest.found, middle, 2 * radius).minimum(farthest)
        x_adv = torch.where(per_sample(done), torch.where(per_sample(last), nearest.x_adv, x), x_adv)


def _by_distance(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """The wrong classes of the largest logits, the nearest first, were the model linear: N,T; and how far that is: N."""
    with torch.no_grad():
        wrong = wrong_classes(model(x), y)[:, :RANKED]
    ways = []
    for other in wrong.T:
        _, ahead, grad = logits_and_gradient(model, x, lead, y, other)
        ways.append((ahead.abs() / threat.dual(grad)).nan_to_num(nan=torch.inf))
    way, order = torch.stack(ways, 1).sort(dim=1, stable=True)
    return wrong.gather(1, order), way[:, 0]
