"""Attacks one after another, each on the samples that are still right."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from robustcls.core import plugins
from robustcls.core.losses import predict_labels
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from robustcls.evaluation.engine import AttackError, Engine, TimeUp
from robustcls.evaluation.verify import Found
from robustcls.results.records import Accuracy, Attack
from robustcls.results.statistics import quartiles


class Progress(Protocol):
    """Wraps the batches of an attack; `standing` tells how many of its `total` samples it has not broken."""

    def __call__(
        self, batches: Sequence[Any], label: str, total: int, standing: Callable[[], int]
    ) -> Iterable[Any]: ...


@dataclass
class Outcome:
    """What the cascade found. Tensors are on the CPU; N samples."""

    clean: Tensor  # N, clean predictions; NO_ANSWER where the logits name no class
    adversarial: Tensor  # N, predictions after the attacks, likewise
    x_adv: Tensor  # N,C,H,W: the verified example; for survivors the strongest attempt; for clean errors the image
    broken_by: Tensor  # N, index of the attack, -1 for none
    distance: Tensor  # N, of x_adv
    margin: Tensor  # N, of x_adv: the largest of an attempt so far
    fooled: Tensor | None  # attacks,N: who breaks whom, where every attack met every sample
    num_classes: int
    attacks: list[Attack] = field(default_factory=list)
    unanswered: int = 0  # attempts for which the model named no class
    lost: list[tuple[int, int]] = field(default_factory=list)  # by attack: attempts that are no images, of how many
    not_finite: int = 0  # gradients of an image, of those that the attacks took, with entries that were not finite
    nearest: dict[str, Tensor] = field(default_factory=dict)  # of minimum-norm attacks: N distances, NaN for none found

    def standing(self, y: Tensor) -> Tensor:
        """N, right on the clean image and not broken."""
        return (self.clean == y) & (self.broken_by < 0)


def run_cascade(
    engine: Engine,
    threat: ThreatModel,
    attacks: Sequence[str],
    *,
    alone: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Attacks the engine's samples with each spec in turn.

    alone: every attack meets every sample that is right on the clean image, so that attacks can be compared.
    An attack that fails on an error of its own, or is stopped, is recorded with it, and the next one goes on.
    """
    x, y = engine.x, engine.y
    clean = predict_labels(engine.logits)
    right = clean == y
    outcome = Outcome(
        clean, clean.clone(), x.clone(), torch.full_like(y, -1), torch.zeros(len(y)), torch.full((len(y),), -torch.inf),
        torch.zeros(len(attacks), len(y), dtype=torch.bool) if alone else None, engine.logits.shape[1],
    )  # fmt: skip
    for number, (spec, name) in enumerate(zip(attacks, name_attacks(attacks), strict=True)):
        attack, options = engine.load(spec)
        met = right if alone else outcome.standing(y)
        record = Attack(name, options, int(outcome.standing(y).sum()), 0, 0.0, seconds=0.0, forwards=0, backwards=0)
        minimum_norm = traits_of(attack).minimum_norm
        if minimum_norm:
            outcome.nearest[name] = torch.full((len(y),), torch.nan)
        began, engine.earlier_seconds = time.perf_counter(), 0.0
        tried, lost = torch.zeros_like(met), 0
        wrap = iter if progress is None else partial(_show, progress, name, met, outcome, number)
        try:
            for found in engine.attack(attack, met.nonzero().squeeze(1), threat, (number,), progress=wrap):
                _take(outcome, found, number)
                tried[found.indices] = True
                lost += found.lost
                record.forwards += found.forwards
                record.backwards += found.backwards
                if minimum_norm:
                    wrong = found.wrong
                    outcome.nearest[name][found.indices[wrong]] = found.distance[wrong]
        except AttackError as failure:
            record.error = str(failure)
            if isinstance(failure, TimeUp):
                record.error += (
                    f"; {int((met & ~tried).sum())} of {int(met.sum())} samples were not attacked to the end"
                )
        record.seconds = round(time.perf_counter() - began + engine.earlier_seconds, 3)
        _sum_up(record, outcome, number, met, tried, y)
        outcome.attacks.append(record)
        outcome.lost.append((lost, int(tried.sum())))
    if outcome.fooled is not None:
        for number, record in enumerate(outcome.attacks):
            others = outcome.fooled[[i for i in range(len(attacks)) if i != number]].any(0)
            record.unique = int((outcome.fooled[number] & ~others).sum())
    return outcome


def name_attacks(specs: Sequence[str]) -> list[str]:
    """The plug-ins' names; where two share one, their specs, numbered where even these are the same."""
    parsed = [plugins.parse("attack", spec) for spec in specs]
    names = [one.name for one in parsed]
    names = [name if names.count(name) == 1 else str(one) for name, one in zip(names, parsed, strict=True)]
    return [name if names.count(name) == 1 else f"{name} #{names[: i + 1].count(name)}" for i, name in enumerate(names)]


def _take(outcome: Outcome, found: Found, number: int) -> None:
    """Keeps the examples of samples that stood, and the strongest attempts on those that still do."""
    if outcome.fooled is not None:
        outcome.fooled[number, found.indices] = found.fooled
    outcome.unanswered += found.unanswered
    outcome.not_finite += found.not_finite
    standing = outcome.broken_by[found.indices] < 0
    new = standing & found.fooled
    stronger = new | (standing & (found.margin > outcome.margin[found.indices]))
    rows = found.indices[stronger]
    outcome.x_adv[rows] = found.x_adv[stronger]
    outcome.distance[rows] = found.distance[stronger]
    outcome.margin[rows] = found.margin[stronger]
    outcome.broken_by[found.indices[new]] = number
    outcome.adversarial[found.indices[new]] = found.predicted[new]


def _sum_up(record: Attack, outcome: Outcome, number: int, met: Tensor, tried: Tensor, y: Tensor) -> None:
    broken = outcome.broken_by == number
    record.broken = int(broken.sum())
    record.robust_accuracy = int(outcome.standing(y).sum()) / len(y)
    record.median_distance = quartiles(outcome.distance[broken].tolist())[1]
    if outcome.fooled is not None and not record.error:  # one that broke off has not met them all
        record.alone = Accuracy.of(int((met & ~outcome.fooled[number]).sum()), len(y))
    if record.name in outcome.nearest:
        nearest = outcome.nearest[record.name][tried].nan_to_num(nan=torch.inf)
        record.censored = int(nearest.isinf().sum())
        record.median_nearest = quartiles(nearest.tolist())[1]


def _show(progress: Progress, name: str, met: Tensor, outcome: Outcome, number: int, batches: Sequence[Any]):
    total = int(met.sum())

    def standing() -> int:
        done = outcome.fooled[number] if outcome.fooled is not None else outcome.broken_by == number
        return total - int((done & met).sum())

    return progress(batches, name, total, standing)
