"""What minimum-norm attacks share: the nearest adversarial example of all that were tried, and images to begin from."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps

import torch
from torch import Generator, Tensor, nn

from robustcls.attacks._active import per_sample
from robustcls.attacks._goal import Goal
from robustcls.core.draws import Draws, take
from robustcls.core.errors import InputError
from robustcls.core.losses import ATTACK_TIE, gap, tie_scale
from robustcls.core.subset import in_turn
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits

# Images tried as a start: so many for each sample, of which the nearest is taken, and more for those without any, up to so
# many; then so many other images, drawn from all samples, so that the batch decides nothing.
FIRST, STARTS, OTHERS = 30, 200, 100


def lead(logits: Tensor, y: Tensor, other: Tensor | None = None, *, targeted: bool = False) -> Tensor:
    """By how much the class `other` (N), or any, leads y, less twice a tie: an attack that converges on 0 is past the boundary.

    targeted: by how much y, the target, leads all others. Returns N.
    """
    logits = logits.float()
    ahead = Goal(y, targeted).closeness(logits, y) if other is None else gap(logits, y, other)
    return ahead - 2 * ATTACK_TIE * tie_scale(logits.detach(), y)


class Nearest:
    """Of each sample the nearest adversarial example that was tried, in the norm of the threat model; x without one."""

    def __init__(self, x: Tensor, y: Tensor, threat: ThreatModel, *, targeted: bool = False) -> None:
        """targeted: y are classes to go to, not labels to leave."""
        self.x, self.y, self.threat, self.goal = x, y, threat, Goal(y, targeted)
        self.x_adv, self.distance = x, torch.full_like(x[:, 0, 0, 0], torch.inf)

    @property
    def found(self) -> Tensor:
        """N, whether there is one."""
        return self.distance.isfinite()

    def add(self, x_adv: Tensor, logits: Tensor) -> Tensor:
        """Which of these images, by their logits, are adversarial: N."""
        return self.keep(x_adv, self.goal.reached(logits, self.y))

    def keep(self, x_adv: Tensor, adversarial: Tensor) -> Tensor:
        """As `add`, where the caller decides which are adversarial; what is not finite is no image."""
        distance = self.threat.distance(x_adv, self.x)
        adversarial = adversarial & distance.isfinite()
        nearer = adversarial & (distance < self.distance)
        self.distance = torch.where(nearer, distance, self.distance)
        self.x_adv = torch.where(per_sample(nearer), x_adv, self.x_adv)
        return adversarial


def search(
    run: Callable[[Tensor, Tensor, Generator | None], Tensor],
    model: nn.Module,
    x: Tensor,
    goal: Goal,
    generator: Generator | None,
) -> Tensor:
    """What `run(x, labels of the goal, generator)` gives for the samples that have not reached it; the others are their own
    nearest."""
    result, labels = x.clone(), goal.labels
    with torch.no_grad():
        rows = (~goal.reached(model(x), labels)).nonzero().squeeze(1) if len(x) else labels
    if len(rows):
        result[rows] = run(x[rows], labels[rows], take(generator, rows))
    return result


def minimum_norm(
    *norms: str, positive: Sequence[str], least: Mapping[str, int] | None = None, mask: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Declares an attack that looks for the nearest example in one of the norms, and runs it as `search` does.

    positive: options that must be above 0; least: the smallest values of others; mask: whether it keeps to one. The attack
    raises InputError for another norm, and for other values.
    """

    def declare(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @traits(minimum_norm=True, l0="l0" in norms, mask=mask)
        @wraps(attack)
        def searched(model, x, y, threat, *, target=None, generator=None, **options) -> Tensor:
            check_norm(attack.__name__, threat, *norms)
            check_positive(attack.__name__, **{name: options[name] for name in positive if name in options})
            for name, value in (least or {}).items():
                if name in options and options[name] < value:
                    raise InputError(f"{attack.__name__}({name}={options[name]}): give {value} or more")

            def run(x: Tensor, labels: Tensor, generator: Generator | None) -> Tensor:
                aim = {} if target is None else {"target": labels}
                return attack(model, x, labels, threat, generator=generator, **aim, **options)

            return search(run, model, x, Goal.of(y, target), generator)

        return searched

    return declare


@torch.no_grad()
def find_starts(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    generator: Generator | None,
    others: Tensor,
    *,
    targeted: bool = False,
) -> Nearest:
    """An adversarial image for each sample, wherever it lies; targeted: one that the model gives the class y.

    Tried are flat colours and noise, for want of them the other images (M,C,H,W), then blends of the image with the nearest.
    """
    nearest = Nearest(x, y, threat, targeted=targeted)
    for number in range(STARTS):
        tried, rows = x.clone(), ~nearest.found  # no image is an example of itself
        if number >= FIRST and not rows.any():
            break
        if number < FIRST:
            rows = torch.ones_like(rows)
        tried[rows] = _noise(number, x[rows], take(generator, rows))
        nearest.add(tried, model(tried))
    lacks = ~nearest.found
    if lacks.any():
        other = _nearest_of(others, model, Nearest(x[lacks], y[lacks], threat, targeted=targeted))
        nearest.x_adv[lacks], nearest.distance[lacks] = other.x_adv, other.distance
    far = nearest.x_adv
    for step in range(1, 20):
        blend = x + step / 20 * (far - x)
        nearest.add(blend, model(blend))
    return nearest


def others_of(x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """At most OTHERS of the images x (N,C,H,W), of the classes y (N) in turn, by the numbers that name them (N)."""
    order = index.cpu().argsort(stable=True)
    return x[order[in_turn(y.cpu()[order])[:OTHERS]].to(x.device)]


def _nearest_of(others: Tensor, model: nn.Module, nearest: Nearest) -> Nearest:
    """The nearest of these images (M,C,H,W) that is an example, for each of its x."""
    x = nearest.x
    for part in others.split(len(x)):  # what memory holds
        part = part.to(x)
        for image, logits in zip(part, model(part), strict=True):
            nearest.add(image.expand_as(x), logits.expand(len(x), -1))
    return nearest


def _noise(number: int, x: Tensor, generator: Generator | None) -> Tensor:
    """Images like x: of one colour, of noise, and of noise in black and white, in turn."""
    draws = Draws(x, generator)
    if number % 3 == 0:
        return draws.uniform(x.shape[1], 1, 1).expand_as(x)
    return draws.uniform(*x.shape[1:]) if number % 3 == 1 else draws.uniform(*x.shape[1:]).round()


def check_norm(name: str, threat: ThreatModel, *norms: str) -> None:
    """Raises InputError for a norm that the attack does not measure."""
    if threat.norm not in norms:
        raise InputError(
            f"{name} measures {' or '.join(norms)}, not {threat.norm}: "
            f"judge it with `norm={norms[0]}`, or choose another attack"
        )


def check_positive(name: str, **values: float) -> None:
    """Raises InputError unless these options are above 0."""
    for option, value in values.items():
        if value <= 0:
            raise InputError(f"{name}({option}={value}): give more than 0")
