"""Attacks one after another, each on the samples that are still correct."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.evaluation.attacks import AttackLike, NamedAttack, as_attacks, name_attacks
from robustcls.evaluation.engine import AttackError, Engine, TimeUp
from robustcls.evaluation.examples import Examples
from robustcls.evaluation.verify import Attempts
from robustcls.results.records import Accuracy, Attack
from robustcls.results.statistics import quartiles


class Progress(Protocol):
    """Wraps the batches of an attack; `standing` tells how many of its `total` samples it has not broken."""

    def __call__(
        self, batches: Sequence[Any], label: str, total: int, standing: Callable[[], int]
    ) -> Iterable[Any]: ...


@dataclass(kw_only=True)
class Outcome(Examples):
    """What a cascade has made of the samples, and what it cost; filled as the attacks run."""

    attacks: list[NamedAttack]
    records: list[Attack] = field(default_factory=list)
    num_classes: int
    unanswered: int = 0  # attempts for which the model named no class
    lost: list[tuple[int, int]] = field(default_factory=list)  # by attack: attempts that are no images, of how many
    outside: list[int] = field(default_factory=list)  # by attack: images that it left outside ball or box
    not_finite: int = 0  # gradients of an image, of those that the attacks took, with entries that were not finite

    @property
    def passes(self) -> int:
        """Forward and backward passes of an image."""
        return sum(record.forwards + record.backwards for record in self.records)


def run_cascade(
    engine: Engine, attacks: Sequence[AttackLike], *, alone: bool = False, progress: Progress | None = None
) -> Outcome:
    """Attacks the engine's samples with each attack in turn.

    alone: every attack meets every sample whose clean image is correct, so that attacks can be compared, but those that go
    on from the strongest attempts so far.
    An attack that fails on an error of its own, or is stopped, is recorded with it, and the next one goes on.
    """
    every, x, y = as_attacks(attacks), engine.x, engine.y
    # A clean image that is refused an answer is an error, as one without an answer is.
    clean, names = predict_labels(engine.logits).masked_fill(engine.rejected, NO_ANSWER), name_attacks(every)
    outcome = Outcome(
        x=x, y=y, index=engine.subject.index, clean=clean, x_adv=x.clone(), adversarial=clean.clone(),
        distance=torch.zeros(len(y)), margin=torch.full((len(y),), -torch.inf), breaker=torch.full_like(y, -1),
        names=names, files=engine.subject.files, attacks=every, num_classes=engine.logits.shape[1],
        succeeded=torch.zeros(len(every), len(y), dtype=torch.bool) if alone else None,
        target=engine.subject.aim.target if engine.subject.aim else None,
    )  # fmt: skip
    for number, (attack, name) in enumerate(zip(every, names, strict=True)):
        robust = outcome.robust
        met = outcome.correct if alone and not attack.continues else robust
        options = dict(engine.prepare(attack).options)
        record = Attack(name, options, int(robust.sum()), 0, 0.0, seconds=0.0, forwards=0, backwards=0)
        if attack.traits.minimum_norm:
            outcome.nearest[name] = torch.full((len(y),), torch.nan)
        began, engine.earlier_seconds = time.perf_counter(), 0.0
        tried, lost, outside = torch.zeros_like(met), 0, 0
        wrap = iter if progress is None else partial(_show, progress, name, met, outcome, number)
        try:
            rows, start = met.nonzero().squeeze(1), outcome.x_adv if attack.continues else None
            for attempts in engine.attack(attack, rows, engine.threat, (number,), start=start, progress=wrap):
                _take(outcome, attempts, number)
                tried[attempts.indices] = True
                lost += attempts.lost
                outside += attempts.outside
                record.forwards += attempts.forwards
                record.backwards += attempts.backwards
        except AttackError as failure:
            record.error = str(failure)
            if isinstance(failure, TimeUp):
                record.error += (
                    f"; {int((met & ~tried).sum())} of {int(met.sum())} samples were not attacked to the end"
                )
        record.seconds = round(time.perf_counter() - began + engine.earlier_seconds, 3)
        _sum_up(record, outcome, number, met, tried)
        outcome.records.append(record)
        outcome.lost.append((lost, int(tried.sum())))
        outcome.outside.append(outside)
    if outcome.succeeded is not None:
        for number, record in enumerate(outcome.records):
            others = outcome.succeeded[[i for i in range(len(every)) if i != number]].any(0)
            record.unique = int((outcome.succeeded[number] & ~others).sum())
    return outcome


def _take(outcome: Outcome, attempts: Attempts, number: int) -> None:
    """Keeps the examples of samples that were robust, and the strongest attempts on those that still are."""
    if outcome.succeeded is not None:
        outcome.succeeded[number, attempts.indices] = attempts.success
    if outcome.names[number] in outcome.nearest:
        misclassified = attempts.misclassified
        outcome.nearest[outcome.names[number]][attempts.indices[misclassified]] = attempts.distance[misclassified]
    outcome.unanswered += attempts.unanswered
    outcome.not_finite += attempts.not_finite
    unbroken = outcome.breaker[attempts.indices] < 0
    new = unbroken & attempts.success
    stronger = new | (unbroken & (attempts.margin > outcome.margin[attempts.indices]))
    rows = attempts.indices[stronger]
    outcome.x_adv[rows] = attempts.x_adv[stronger]
    outcome.distance[rows] = attempts.distance[stronger]
    outcome.margin[rows] = attempts.margin[stronger]
    outcome.breaker[attempts.indices[new]] = number
    outcome.adversarial[attempts.indices[new]] = attempts.predicted[new]


def _sum_up(record: Attack, outcome: Outcome, number: int, met: Tensor, tried: Tensor) -> None:
    broken = outcome.breaker == number
    record.broken = int(broken.sum())
    record.robust_accuracy = int(outcome.robust.sum()) / len(outcome.y)
    record.median_distance = quartiles(outcome.distance[broken].tolist())[1]
    # One that failed has not met them all, nor has one that goes on from the others' attempts.
    if outcome.succeeded is not None and not record.error and not outcome.attacks[number].continues:
        record.alone = Accuracy.of(int((met & ~outcome.succeeded[number]).sum()), len(outcome.y))
    if record.name in outcome.nearest:
        nearest = outcome.nearest[record.name][tried].nan_to_num(nan=torch.inf)
        record.censored = int(nearest.isinf().sum())
        record.median_nearest = quartiles(nearest.tolist())[1]


def _show(progress: Progress, name: str, met: Tensor, outcome: Outcome, number: int, batches: Sequence[Any]):
    total = int(met.sum())

    def standing() -> int:
        done = outcome.succeeded[number] if outcome.succeeded is not None else outcome.breaker == number
        return total - int((done & met).sum())

    return progress(batches, name, total, standing)
