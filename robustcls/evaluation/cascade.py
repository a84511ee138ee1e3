"""The cascade: attacks one after another, each on the samples that are still robust."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.core.seeds import mix
from robustcls.evaluation.attacks import AttackLike, NamedAttack, as_attacks, name_attacks
from robustcls.evaluation.engine import AttackError, Engine, TimeUp, never
from robustcls.evaluation.examples import Examples
from robustcls.evaluation.packing import pack, unpack
from robustcls.evaluation.verify import Attempts
from robustcls.models.wrappers.averaged import averaged_in
from robustcls.results.records import Accuracy, Attack
from robustcls.results.statistics import quartiles
from robustcls.runtime.stored import BLOCK, EightBit, Stored

SAMPLE = 2  # identifies the random numbers that choose the samples that an attack runs on
CHUNK = 1000  # number of large images that go through all attacks before the next ones
BY_SAMPLE = ("adversarial", "distance", "margin", "breaker")  # fields of an outcome with one value per sample

Keep = Callable[["Outcome", Tensor], Tensor]


class Progress(Protocol):
    """Show progress over the batches of an attack; `standing` returns how many of its `total` samples are not broken."""

    def __call__(
        self, batches: Sequence[Any], label: str, total: int, standing: Callable[[], int]
    ) -> Iterable[Any]: ...


@dataclass(kw_only=True)
class Outcome(Examples):
    """The result of a cascade for each sample, and its cost; filled as the attacks run."""

    attacks: list[NamedAttack]
    records: list[Attack] = field(default_factory=list)
    num_classes: int
    unanswered: int = 0  # attempts for which the model predicted no class
    lost: list[tuple[int, int]] = field(default_factory=list)  # per attack: attempts not finite, of how many
    outside: list[int] = field(default_factory=list)  # per attack: attempts that lie outside ball or box
    not_finite: int = 0  # gradients (one per image and step) with entries that were not finite

    @property
    def passes(self) -> int:
        """Number of forward and backward passes, counted per image."""
        return sum(record.forwards + record.backwards for record in self.records)


@dataclass
class Cost:
    """The cost of an attack so far, and those of its counts that are not kept per sample."""

    forwards: int = 0
    backwards: int = 0
    seconds: float = 0.0
    lost: int = 0
    outside: int = 0
    unanswered: int = 0
    not_finite: int = 0
    error: str = ""

    def add(self, other: "Cost | Attempts") -> None:
        for name in ("forwards", "backwards", "seconds", "lost", "outside", "unanswered", "not_finite"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.error = getattr(other, "error", "") or self.error


def run_cascade(
    engine: Engine,
    attacks: Sequence[AttackLike],
    *,
    alone: bool = False,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> Outcome:
    """Run each attack in turn on the engine's samples.

    Many large images are attacked in chunks: all attacks on one chunk before the next. The result is the same, because the
    random numbers of a sample depend only on the sample. If the last attack runs on a random sample of those still robust, it
    does so after all chunks. An attack that raises an error or is stopped is recorded with the message, and the next one runs.

    Args:
        alone: run every attack on every sample whose clean image is classified correctly, so that attacks can be compared.
            Attacks that continue from the strongest attempts so far still run on robust samples only.
        keep: called with the outcome and `done` (N, bool); returns N, bool: of the samples done, those whose adversarial
            images are kept in memory, if there are many large ones. By default all are kept.
    """
    every, x, y = as_attacks(attacks), engine.x, engine.y
    # A clean image that the detector rejects counts as an error, like one for which the model predicts no class.
    clean, names = predict_labels(engine.logits).masked_fill(engine.rejected, NO_ANSWER), name_attacks(every)
    outcome = Outcome(
        x=x, y=y, index=engine.subject.index, clean=clean, x_adv=Stored(x) if isinstance(x, EightBit) else x.clone(),
        adversarial=clean.clone(), distance=torch.zeros(len(y)), margin=torch.full((len(y),), -torch.inf),
        breaker=torch.full_like(y, -1), names=names, files=engine.subject.files, attacks=every,
        num_classes=engine.logits.shape[1],
        nearest={
            name: torch.full((len(y),), torch.nan)
            for attack, name in zip(every, names, strict=True)
            if attack.traits.minimum_norm
        },
        succeeded=torch.zeros(len(every), len(y), dtype=torch.bool) if alone else None,
        target=engine.subject.aim.target if engine.subject.aim else None,
    )  # fmt: skip
    costs, chunks = [Cost() for _ in every], _chunks(engine, every)
    tried = torch.zeros(len(every), len(y), dtype=torch.bool)
    done = torch.zeros(len(y), dtype=torch.bool)
    # The number of the attack that runs on a random sample of those still robust, if any.
    last = len(every) - 1 if every and every[-1].sample and not alone else None
    left = 0
    for rows in chunks:
        journal = engine.journal if len(chunks) > 1 else None
        known = journal.read_chunk(rows) if journal else None
        if known is not None:
            new_costs = _restore(outcome, tried, known)
        else:
            new_costs = [
                Cost()
                if before.error or number == last
                else _attack(engine, outcome, number, rows, tried[number], progress)
                for number, before in enumerate(costs)
            ]
        for cost, new in zip(costs, new_costs, strict=True):
            cost.add(new)
        done[rows] = True
        if keep is not None and isinstance(outcome.x_adv, Stored):
            outcome.x_adv.forget(done & ~keep(outcome, done))
        if journal and known is None and not any(cost.error for cost in costs):
            journal.write_chunk(rows, _columns(outcome, tried, rows, new_costs))
    if last is not None:
        left = int(outcome.robust.sum())
        costs[last].add(_attack_sample(engine, outcome, last, tried[last], progress))
        if keep is not None and isinstance(outcome.x_adv, Stored):
            outcome.x_adv.forget(done & ~keep(outcome, done))
    for number, cost in enumerate(costs):
        outcome.records.append(_record(engine, outcome, number, cost, tried[number]))
        if number == last and not cost.error and (met := int(tried[number].sum())) < left:
            outcome.records[-1].attacked, outcome.records[-1].sampled_from = met, left
        outcome.lost.append((cost.lost, int(tried[number].sum())))
        outcome.outside.append(cost.outside)
        outcome.unanswered += cost.unanswered
        outcome.not_finite += cost.not_finite
    if outcome.succeeded is not None:
        for number, record in enumerate(outcome.records):
            others = outcome.succeeded[[i for i in range(len(every)) if i != number]].any(0)
            record.unique = int((outcome.succeeded[number] & ~others).sum())
    return outcome


def _chunks(engine: Engine, attacks: Sequence[NamedAttack]) -> Sequence[Tensor]:
    """Return the rows of the samples that are attacked together.

    These are all samples if images are small, if an attack makes one perturbation for all, if there is a time limit (each
    attack should run before it is reached), or if the samples of a batch share the draws of a random model.
    """
    rows = torch.arange(len(engine.y))
    together = not isinstance(engine.x, EightBit) or any(one.traits.universal for one in attacks)
    together = together or engine.over is not never or bool(averaged_in(engine.subject.model))
    return [rows] if together else rows.split(CHUNK)


def _attack(
    engine: Engine, outcome: Outcome, number: int, rows: Tensor, tried: Tensor, progress: Progress | None
) -> Cost:
    """Run one attack on its samples among these rows, and mark those it ran on as tried (N, bool)."""
    attack, cost = outcome.attacks[number], Cost()
    met = torch.zeros_like(tried)
    meets_all = outcome.succeeded is not None and not attack.continues
    met[rows] = (outcome.correct if meets_all else outcome.robust)[rows]
    began, engine.earlier_seconds = time.perf_counter(), 0.0
    of_all = "" if len(rows) == len(tried) or attack.sample else f", {int(rows[0]) + 1} to {int(rows[-1]) + 1}"
    wrap = iter if progress is None else partial(_show, progress, outcome.names[number] + of_all, met, outcome, number)
    start = outcome.x_adv if attack.continues else None
    try:
        own_rows = met.nonzero().squeeze(1)
        for attempts in engine.attack(attack, own_rows, engine.threat, (number,), start=start, progress=wrap):
            _take(outcome, attempts, number)
            tried[attempts.indices] = True
            cost.add(attempts)
    except AttackError as failure:
        cost.error = str(failure)
        if isinstance(failure, TimeUp):
            cost.error += f"; {int((met & ~tried).sum())} of {int(met.sum())} samples were not attacked to the end"
    cost.seconds = time.perf_counter() - began + engine.earlier_seconds
    return cost


def _attack_sample(engine: Engine, outcome: Outcome, number: int, tried: Tensor, progress: Progress | None) -> Cost:
    """Run the attack on a random sample of those still robust and, if it breaks one of them, on all others too."""
    left = outcome.robust.nonzero().squeeze(1)
    generator = torch.Generator().manual_seed(mix(engine.seed, number, SAMPLE))
    drawn = left[torch.randperm(len(left), generator=generator)[: outcome.attacks[number].sample]].sort().values
    cost = _attack(engine, outcome, number, drawn, tried, progress)
    if (outcome.breaker[drawn] == number).any() and not cost.error:
        cost.add(_attack(engine, outcome, number, left[~torch.isin(left, drawn)], tried, progress))
    return cost


def _take(outcome: Outcome, attempts: Attempts, number: int) -> None:
    """Store the examples of newly broken samples, and the strongest attempts on those that are still robust."""
    if outcome.succeeded is not None:
        outcome.succeeded[number, attempts.indices] = attempts.success
    if outcome.names[number] in outcome.nearest:
        misclassified = attempts.misclassified
        outcome.nearest[outcome.names[number]][attempts.indices[misclassified]] = attempts.distance[misclassified]
    unbroken = outcome.breaker[attempts.indices] < 0
    new = unbroken & attempts.success
    stronger = new | (unbroken & (attempts.margin > outcome.margin[attempts.indices]))
    rows = attempts.indices[stronger]
    outcome.x_adv[rows] = attempts.x_adv[stronger]
    outcome.distance[rows] = attempts.distance[stronger]
    outcome.margin[rows] = attempts.margin[stronger]
    outcome.breaker[attempts.indices[new]] = number
    outcome.adversarial[attempts.indices[new]] = attempts.predicted[new]


def _record(engine: Engine, outcome: Outcome, number: int, cost: Cost, tried: Tensor) -> Attack:
    attack, name, n = outcome.attacks[number], outcome.names[number], len(outcome.y)
    before = outcome.correct & ((outcome.breaker < 0) | (outcome.breaker >= number))
    broken = outcome.breaker == number
    left = int((before & ~broken).sum())
    record = Attack(
        name, dict(engine.prepare(attack).options), int(before.sum()), int(broken.sum()), left / n,
        seconds=round(cost.seconds, 3), forwards=cost.forwards, backwards=cost.backwards,
    )  # fmt: skip
    record.error = cost.error
    record.median_distance = quartiles(outcome.distance[broken].tolist())[1]
    # An attack that failed, or that continues from the attempts of others, did not run on all samples.
    if outcome.succeeded is not None and not record.error and not attack.continues:
        record.alone = Accuracy.of(int((outcome.correct & ~outcome.succeeded[number]).sum()), n)
    if name in outcome.nearest:
        nearest = outcome.nearest[name][tried].nan_to_num(nan=torch.inf)
        record.censored = int(nearest.isinf().sum())
        record.median_nearest = quartiles(nearest.tolist())[1]
    return record


def _columns(outcome: Outcome, tried: Tensor, rows: Tensor, costs: Sequence[Cost]) -> dict[str, Any]:
    """Return the results for the samples at these rows, for the journal, with the adversarial images that are kept."""
    stored = rows[outcome.x_adv.places[rows] >= 0]
    return {
        **{name: getattr(outcome, name)[rows] for name in BY_SAMPLE},
        "tried": tried[:, rows],
        "succeeded": None if outcome.succeeded is None else outcome.succeeded[:, rows],
        "nearest": {name: distances[rows] for name, distances in outcome.nearest.items()},
        "stored": stored,
        "x_adv": [pack(outcome.x_adv[one], outcome.x[one]) for one in stored.split(BLOCK)],
        "forgotten": rows[~outcome.x_adv.kept[rows]],
        "costs": [vars(cost) for cost in costs],
    }


def _restore(outcome: Outcome, tried: Tensor, known: dict[str, Any]) -> list[Cost]:
    """Fill the outcome with what `_columns` returned, and return the costs."""
    rows = known["rows"]
    for name in BY_SAMPLE:
        getattr(outcome, name)[rows] = known[name]
    tried[:, rows] = known["tried"]
    if outcome.succeeded is not None:
        outcome.succeeded[:, rows] = known["succeeded"]
    for name, distances in known["nearest"].items():
        outcome.nearest[name][rows] = distances
    for part, packed in zip(known["stored"].split(BLOCK), known["x_adv"], strict=True):
        outcome.x_adv[part] = unpack(packed, outcome.x[part])
    forgotten = torch.zeros_like(outcome.success)
    forgotten[known["forgotten"]] = True
    outcome.x_adv.forget(forgotten)
    return [Cost(**cost) for cost in known["costs"]]


def _show(progress: Progress, name: str, met: Tensor, outcome: Outcome, number: int, batches: Sequence[Any]):
    total = int(met.sum())

    def standing() -> int:
        done = outcome.succeeded[number] if outcome.succeeded is not None else outcome.breaker == number
        return total - int((done & met).sum())

    return progress(batches, name, total, standing)
