"""Shared parts of minimum-norm attacks: the nearest adversarial example found so far, and starting points."""

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

# Images tried as starting points: FIRST for each sample, of which the nearest adversarial one is taken; for samples without
# any, more up to STARTS; then up to OTHERS images of other samples. These are chosen from all samples, not from the batch, so
# that results do not depend on the batch size.
FIRST, STARTS, OTHERS = 30, 200, 100


def lead(logits: Tensor, y: Tensor, other: Tensor | None = None, *, targeted: bool = False) -> Tensor:
    """Return by how much the class `other` (N), or the best wrong class, leads y, minus twice a tie: N.

    An attack that converges on 0 has therefore clearly crossed the decision boundary. targeted: y is the target; return by
    how much it leads all other classes.
    """
    logits = logits.float()
    ahead = Goal(y, targeted).closeness(logits, y) if other is None else gap(logits, y, other)
    return ahead - 2 * ATTACK_TIE * tie_scale(logits.detach(), y)


class Nearest:
    """Keep each sample's nearest adversarial example so far, in the norm of the threat model; x if there is none."""

    def __init__(self, x: Tensor, y: Tensor, threat: ThreatModel, *, targeted: bool = False) -> None:
        """targeted: y are the target classes, not the labels."""
        self.x, self.y, self.threat, self.goal = x, y, threat, Goal(y, targeted)
        self.x_adv, self.distance = x, torch.full_like(x[:, 0, 0, 0], torch.inf)

    @property
    def found(self) -> Tensor:
        """Whether an adversarial example was found: N, bool."""
        return self.distance.isfinite()

    def add(self, x_adv: Tensor, logits: Tensor) -> Tensor:
        """Take these images with their logits, and return which of them are adversarial: N, bool."""
        return self.keep(x_adv, self.goal.reached(logits, self.y))

    def keep(self, x_adv: Tensor, adversarial: Tensor) -> Tensor:
        """Like `add`, but the caller decides which images are adversarial. Images that are not finite never are."""
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
    """Run `run(x, labels of the goal, generator)` on the samples that have not reached the goal, and return x_adv of all.

    Samples that are already misclassified are their own nearest adversarial example.
    """
    result, labels = x.clone(), goal.labels
    with torch.no_grad():
        rows = (~goal.reached(model(x), labels)).nonzero().squeeze(1) if len(x) else labels
    if len(rows):
        result[rows] = run(x[rows], labels[rows], take(generator, rows))
    return result


def minimum_norm(
    *norms: str, positive: Sequence[str], least: Mapping[str, int] | None = None, mask: bool = False
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorate an attack that looks for the nearest adversarial example in one of the norms, and run it through `search`.

    positive: options that must be above 0. least: the smallest allowed values of other options. mask: whether the attack
    respects a mask. The decorated attack raises InputError for another norm or for option values out of range.
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
    """Return an adversarial image for each sample, at whatever distance; targeted: an image predicted as class y.

    Flat colours and noise are tried first, then, for samples without a success, the other images (M,C,H,W), and last blends
    of the image with the nearest one found.
    """
    nearest = Nearest(x, y, threat, targeted=targeted)
    for number in range(STARTS):
        tried, rows = x.clone(), ~nearest.found  # rows that are not tried keep x, which is not adversarial
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
    """Return at most OTHERS of the images x (N,C,H,W), one class of y (N) after another, in the order of `index` (N)."""
    order = index.cpu().argsort(stable=True)
    return x[order[in_turn(y.cpu()[order])[:OTHERS]].to(x.device)]


def _nearest_of(others: Tensor, model: nn.Module, nearest: Nearest) -> Nearest:
    """Add these images (M,C,H,W) to `nearest` as candidates for each of its samples, and return it."""
    x = nearest.x
    for part in others.split(len(x)):  # as many at once as the batch size that fits into memory
        part = part.to(x)
        for image, logits in zip(part, model(part), strict=True):
            nearest.add(image.expand_as(x), logits.expand(len(x), -1))
    return nearest


def _noise(number: int, x: Tensor, generator: Generator | None) -> Tensor:
    """Return images shaped like x: of one colour, of uniform noise, or of black-and-white noise, depending on `number`."""
    draws = Draws(x, generator)
    if number % 3 == 0:
        return draws.uniform(x.shape[1], 1, 1).expand_as(x)
    return draws.uniform(*x.shape[1:]) if number % 3 == 1 else draws.uniform(*x.shape[1:]).round()


def check_norm(name: str, threat: ThreatModel, *norms: str) -> None:
    """Raise InputError if the attack does not minimise this norm."""
    if threat.norm not in norms:
        raise InputError(
            f"{name} measures {' or '.join(norms)}, not {threat.norm}: "
            f"judge it with `norm={norms[0]}`, or choose another attack"
        )


def check_positive(name: str, **values: float) -> None:
    """Raise InputError unless these options are above 0."""
    for option, value in values.items():
        if value <= 0:
            raise InputError(f"{name}({option}={value}): give more than 0")
