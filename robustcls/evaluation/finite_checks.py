"""Self-checks for what is not finite: logits, attempts, and gradients by the image."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustcls.core.gradients import input_gradient
from robustcls.core.losses import NO_ANSWER, cross_entropy, dlr
from robustcls.core.subset import spaced
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.diagnostics import (
    NOTHING_RIGHT,
    WARN,
    ZERO_GRADIENTS,
    is_differentiable,
    judge_measure,
    not_run,
)
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.nearest import nearest
from robustcls.results.records import Check

LOST = 0.05  # share of an attack's attempts
LOOKED = 32  # samples whose gradients are looked at
BESIDE, PROBE = 0.003, "apgd_ce(steps=20)"  # how far off a pole, in pixel values; the attack there


def check_finite(outcome: Outcome) -> Check:
    """Whether the model named a class for every image: one that it does not answer counts as misclassified."""
    clean, attempts = int((outcome.clean == NO_ANSWER).sum()), outcome.unanswered
    return judge_measure(
        "finite_output",
        float(clean + attempts),
        0.5,
        f"{clean} clean images and {attempts} attempts gave logits that are not numbers",
        "each counts as a wrong answer: mend the model, or clamp what overflows",
    )


def check_attempts(outcome: Outcome) -> Check:
    """Whether every attempt of every attack was an image: one of NaN can break nothing, and its sample was not attacked."""
    parts = [(lost, tried, record.name) for (lost, tried), record in zip(outcome.lost, outcome.attacks, strict=True)]
    lost, tried = sum(part[0] for part in parts), sum(part[1] for part in parts)
    share, worst = max(((lost / tried, name) for lost, tried, name in parts if tried), default=(0.0, ""))
    if not tried:
        return not_run("finite_attempts", NOTHING_RIGHT)
    what = f"{lost} of {tried} attempts hold values that are not finite"
    if not lost:
        return Check("finite_attempts", "pass", 0.0, 0.0, what)
    mend = "they are lost, and robust accuracy is overstated as far as no other attack breaks these samples: mend the attack"
    status, threshold = ("fail", LOST) if share > LOST else ("warn", 0.0)
    return Check("finite_attempts", status, share, threshold, f"{what}, most of them {share:.1%} of {worst}'s; {mend}")


def check_gradients(engine: Engine, outcome: Outcome, threat: ThreatModel) -> Check:
    """Whether the gradients by the image are finite, on clean images and wherever the attacks came.

    Entries that are not count as 0, so that an attack goes on along the others. Whether that cost it examples shows an
    attack that takes its gradients a little off the image, where a pole such as that of a root at 0 has none.
    """
    name = "finite_gradients"
    if not is_differentiable(engine.exact):
        return not_run(name, "the model gives no gradients: only attacks without them can judge it")
    answered = (outcome.clean != NO_ANSWER).nonzero().squeeze(1)
    met = answered[spaced(engine.y[answered], LOOKED)]
    clean, attacked = _look(engine, engine.x, met), _look(engine, outcome.x_adv, met)
    standing = outcome.standing(engine.y)
    found = (clean.odd | attacked.odd).float().mean().item()
    still = (clean.stuck & attacked.stuck & standing[met]).float().mean().item()
    taken = sum(record.backwards for record in outcome.attacks)
    share = max(found, outcome.not_finite / max(taken, 1))
    what = (
        f"{found:.1%} of {len(met)} samples have an input gradient with entries that are not finite, on the clean image or "
        f"on the attempt; so had {outcome.not_finite} of the {taken} gradients that the attacks took"
    )
    if share == 0:
        return Check(name, "pass", share, 0.0, what)
    mend = "look for roots, norms and logarithms at 0 and keep them off their pole, and attack without gradients too"
    if still > ZERO_GRADIENTS:
        what += f"; {still:.1%} stand and have no finite gradient but 0, so robust accuracy is overstated: {mend}"
        return Check(name, "fail", still, ZERO_GRADIENTS, what)
    left = nearest(engine, outcome, standing.nonzero().squeeze(1), LOOKED)
    count = _broken_beside(engine, left, threat)
    bound = max(WARN[0], WARN[1] * len(engine.y))
    what += f"; they count as 0; with gradients of images {BESIDE} off, {PROBE} broke {count} of {len(left)} survivors"
    if count > bound:
        return Check(name, "fail", float(count), bound, f"{what}, so robust accuracy is overstated: {mend}")
    return Check(name, "warn", share, 0.0, f"{what}: {mend}")


def _broken_beside(engine: Engine, met: Tensor, threat: ThreatModel) -> int:
    """How many of these samples (indices) an attack breaks that takes its gradients a little off the image."""
    if len(met) == 0 or engine.crafts_elsewhere:
        return 0
    beside = _Beside(engine.judge.model, engine.x.shape[1:], engine.seed).to(engine.device)
    probe = Engine(
        engine.judge.model,
        engine.x[met],
        engine.y[met],
        batch_size=engine.batch_size,
        seed=engine.seed,
        index=engine.index[met],
        surrogate=beside,
    )
    attack, _ = probe.load(PROBE)
    try:
        return sum(int(found.fooled.sum()) for found in probe.attack(attack, torch.arange(len(met)), threat, (0,)))
    except AttackError:
        return 0


class _Beside(nn.Module):
    """The model on images that are drawn a little towards a fixed pattern, so that no pixel is 0 or like its neighbours."""

    def __init__(self, model: nn.Module, size: torch.Size, seed: int) -> None:
        super().__init__()
        self.model = model
        self.pattern: Tensor
        self.register_buffer("pattern", torch.rand(1, *size, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.lerp(self.pattern.to(x), BESIDE))


class _Seen(NamedTuple):
    odd: Tensor  # N, bool: the input gradient has entries that are not finite
    stuck: Tensor  # N, bool: and no others but 0


def _look(engine: Engine, images: Tensor, met: Tensor) -> _Seen:
    """At the gradients of the cross-entropy, and of the DLR, which has one where the former rounds to 0."""
    model = engine.exact

    def look(rows: Tensor) -> Tensor:
        x, y = images[rows].to(engine.device), engine.crafted_y[rows].to(engine.device)
        odd = moves = torch.zeros_like(y, dtype=torch.bool)
        for loss in (cross_entropy, dlr):
            moves = moves | (input_gradient(model, x, y, loss) != 0).flatten(1).any(1)
            odd = odd | model.odd
        return torch.stack([odd, odd & ~moves]).cpu()

    return _Seen(*torch.cat(list(engine.parts.map(look, met)), 1))
