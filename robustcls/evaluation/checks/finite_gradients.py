"""Whether input gradients are finite."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustcls.core.gradients import input_gradient
from robustcls.core.losses import NO_ANSWER, cross_entropy, dlr
from robustcls.core.subset import spaced
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import PASSIVE, WARN, ZERO_GRADIENTS, NotRun, check, is_differentiable, nearest
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.subject import Surrogate
from robustcls.results.records import Check

NAME = "finite_gradients"
LOOKED = PASSIVE  # samples whose gradients are examined
BESIDE, PROBE = 0.003, "apgd_ce(steps=20)"  # how far off the image gradients are taken, in pixel values; the attack


@check(90)
def finite_gradients(engine: Engine, outcome: Outcome) -> Check:
    """Whether input gradients are finite, on clean images and at the attacks' iterates.

    Entries that are not finite are set to 0, so that an attack continues along the others. To see whether this cost the attacks
    adversarial examples, a further attack takes its gradients slightly off the image, away from poles such as that of a square
    root at 0.
    """
    if not is_differentiable(engine.source):
        raise NotRun("the model gives no gradients: only attacks without them can evaluate it")
    answered = (outcome.clean != NO_ANSWER).nonzero().squeeze(1)
    rows = answered[spaced(engine.y[answered], LOOKED)]
    clean, attacked = _look(engine, engine.x, rows), _look(engine, outcome.x_adv, rows)
    odd = (clean.odd | attacked.odd).float().mean().item()
    still = (clean.stuck & attacked.stuck & outcome.robust[rows]).float().mean().item()
    taken = sum(record.backwards for record in outcome.records)
    share = max(odd, outcome.not_finite / max(taken, 1))
    what = (
        f"{odd:.1%} of {len(rows)} samples have an input gradient with entries that are not finite, on the clean image or "
        f"on the attempt; so had {outcome.not_finite} of the {taken} gradients that the attacks took"
    )
    if share == 0:
        return Check(NAME, "pass", share, 0.0, what)
    advice = "look for roots, norms and logarithms at 0 and keep them off their pole, and attack without gradients too"
    if still > ZERO_GRADIENTS:
        what += (
            f"; {still:.1%} are robust and have no finite gradient but 0, so robust accuracy is overstated: {advice}"
        )
        return Check(NAME, "fail", still, ZERO_GRADIENTS, what)
    left = nearest(engine, outcome, outcome.robust.nonzero().squeeze(1), LOOKED)
    count = _broken_beside(engine, left)
    bound = max(WARN[0], WARN[1] * len(engine.y))
    what += f"; they count as 0; with gradients of images {BESIDE} off, {PROBE} broke {count} of {len(left)} survivors"
    if count > bound:
        return Check(NAME, "fail", float(count), bound, f"{what}, so robust accuracy is overstated: {advice}")
    return Check(NAME, "warn", share, 0.0, f"{what}: {advice}")


def _broken_beside(engine: Engine, rows: Tensor) -> int:
    """Return how many samples at these rows an attack breaks that takes its gradients slightly off the image."""
    if len(rows) == 0 or engine.subject.surrogate is not None:
        return 0
    subject = replace(engine.subject.take(rows), aim=None)
    beside = _Beside(subject.model, engine.x.shape[1:], engine.seed).to(engine.device)
    subject.surrogate = Surrogate(beside, subject.model_record, subject.y)
    probe = Engine(subject, engine.batch_size, seed=engine.seed)
    try:
        attempts = probe.attack(PROBE, torch.arange(len(rows)), engine.threat, (0,))
        return sum(int(batch.success.sum()) for batch in attempts)
    except AttackError:
        return 0


class _Beside(nn.Module):
    """The model on images blended slightly with a fixed random pattern, so that no pixel is 0 or equals its neighbours."""

    def __init__(self, model: nn.Module, size: torch.Size, seed: int) -> None:
        super().__init__()
        self.model = model
        self.pattern: Tensor
        self.register_buffer("pattern", torch.rand(1, *size, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.lerp(self.pattern.to(x), BESIDE))


class _Seen(NamedTuple):
    odd: Tensor  # N, bool: the input gradient has entries that are not finite
    stuck: Tensor  # N, bool: and all its finite entries are 0


def _look(engine: Engine, images: Tensor, rows: Tensor) -> _Seen:
    """Examine the gradients of the cross-entropy, and of the DLR, which has one where that of the former rounds to 0."""
    model = engine.source

    def look(rows: Tensor) -> Tensor:
        x, y = images[rows].to(engine.device), engine.subject.source_y[rows].to(engine.device)
        odd = moves = torch.zeros_like(y, dtype=torch.bool)
        for loss in (cross_entropy, dlr):
            moves = moves | (input_gradient(model, x, y, loss) != 0).flatten(1).any(1)
            odd = odd | model.odd
        return torch.stack([odd, odd & ~moves]).cpu()

    return _Seen(*torch.cat(list(engine.parts.map(look, rows)), 1))
