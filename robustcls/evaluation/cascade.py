"""Attacks one after another, each on the samples that are still right, and the verification of what they find."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import check_logits, device_of
from robustcls.core.errors import InputError
from robustcls.core.losses import margin
from robustcls.core.records import Accuracy, Attack
from robustcls.core.seeds import mix
from robustcls.core.threat import ThreatModel
from robustcls.runtime.search import Counted, make_search_model

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]  # wraps batches, with a label and a number of samples

# A margin below this share of the logits could flip with the order of a sum, so it counts neither way as broken.
TIE = 1e-5
BALL = 1e-6


@dataclass
class Outcome:
    """What the cascade found. Tensors are on the CPU; N samples."""

    clean: Tensor  # N, clean predictions
    adversarial: Tensor  # N, predictions after the attacks
    x_adv: Tensor  # N,C,H,W: the verified example; for survivors the strongest attempt; for clean errors the image
    broken_by: Tensor  # N, index of the attack, -1 for none
    distance: Tensor  # N, of x_adv
    fooled: Tensor | None  # attacks,N: who breaks whom, where every attack met every sample
    num_classes: int
    attacks: list[Attack] = field(default_factory=list)


def run_cascade(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    attacks: Sequence[str],
    *,
    batch_size: int,
    precision: str = "fp32",
    alone: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Attacks x (N,C,H,W in [0, 1], CPU) with each spec in turn; the model must be frozen.

    alone: every attack meets every sample that is right on the clean image, so that attacks can be compared.
    An attack that fails on an error of its own is recorded with it, and the next one goes on.
    """
    judge = Counted(model)
    device = device_of(model)
    search = make_search_model(model, precision, x[: min(len(x), batch_size)].to(device))
    searches = [search, judge] if precision != "fp32" and search.__class__ is not Counted else [search]
    clean = predict(judge, x, batch_size)
    check_logits(clean, y)
    predictions = clean.argmax(1)
    right = predictions == y
    outcome = Outcome(
        predictions, predictions.clone(), x.clone(), torch.full_like(y, -1), torch.zeros(len(y)),
        torch.zeros(len(attacks), len(y), dtype=torch.bool) if alone else None, clean.shape[1],
    )  # fmt: skip
    best = torch.full((len(y),), -float("inf"))  # largest margin of an attempt so far
    for number, (spec, label) in enumerate(zip(attacks, name_attacks(attacks), strict=True)):
        attack = plugins.load("attack", spec)
        survivors = right & (outcome.broken_by < 0)
        met = right if alone else survivors
        for counter in searches:
            counter.forwards = counter.backwards = 0
        started, error = time.perf_counter(), ""
        batches = met.nonzero().squeeze(1).split(batch_size) if met.any() else ()
        for indices in progress(batches, label, int(met.sum())) if progress else batches:
            try:
                found = _attack_batch(attack, searches, judge, x, y, threat, indices, seed, number, device)
            except InputError:
                raise
            except Exception as failure:
                error = f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else 'no message'}"
                break
            _record(outcome, found, best, threat, x, number)
        broken = outcome.broken_by == number
        fooled = None if outcome.fooled is None else outcome.fooled[number]
        outcome.attacks.append(
            Attack(
                label,
                plugins.resolved("attack", spec),
                attacked=int(survivors.sum()),
                broken=int(broken.sum()),
                robust_accuracy=int((survivors & ~broken).sum()) / len(y),
                seconds=round(time.perf_counter() - started, 3),
                forwards=sum(counter.forwards for counter in searches),
                backwards=sum(counter.backwards for counter in searches),
                alone=None if fooled is None else Accuracy.of(int((right & ~fooled).sum()), len(y)),
                median_distance=outcome.distance[broken].median().item() if broken.any() else None,
                error=error,
            )
        )
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


@dataclass
class _Found:
    """A batch of verified attempts, on the CPU."""

    indices: Tensor
    x_adv: Tensor
    predicted: Tensor
    margin: Tensor
    fooled: Tensor


def _attack_batch(
    attack: Callable[..., Tensor],
    searches: Sequence[nn.Module],
    judge: Counted,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    indices: Tensor,
    seed: int,
    number: int,
    device: torch.device,
) -> _Found:
    """Searches on the fast model first; what it could not break is searched again in fp32 before it is called robust."""
    clean, labels = x[indices].to(device), y[indices].to(device)
    found = None
    for search in searches:
        left = torch.arange(len(indices)) if found is None else (~found.fooled).nonzero().squeeze(1)
        if len(left) == 0:
            continue
        generator = torch.Generator(device).manual_seed(mix(seed, number, int(indices[0])))
        x_adv = attack(search, clean[left], labels[left], threat, generator=generator)
        if x_adv.shape != clean[left].shape:
            raise ValueError(f"it gave {tuple(x_adv.shape)} for images {tuple(clean[left].shape)}")
        judged = _verify(judge, x_adv.detach().float(), clean[left], labels[left], threat, indices[left])
        if found is None:
            found = judged
        else:
            better = judged.fooled | (judged.margin > found.margin[left])
            where = left[better]
            for name in ("x_adv", "predicted", "margin", "fooled"):
                getattr(found, name)[where] = getattr(judged, name)[better]
    assert found is not None
    return found


@torch.no_grad()
def _verify(judge: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel, indices: Tensor) -> _Found:
    """An example counts when the fp32 model gives another label on the tensor as saved, inside ball and box."""
    logits = judge(x_adv)
    gap = margin(logits, y)
    predicted = logits.argmax(1)
    inside = (
        (threat.distance(x_adv, x) <= threat.eps + BALL)
        & (x_adv.flatten(1).amin(1) >= 0)
        & (x_adv.flatten(1).amax(1) <= 1)
    )
    fooled = inside & (predicted != y) & (gap > TIE * logits.abs().amax(1))
    gap = gap.where(inside, torch.full_like(gap, -float("inf")))
    return _Found(indices, x_adv.cpu(), predicted.cpu(), gap.cpu(), fooled.cpu())


def _record(outcome: Outcome, found: _Found, best: Tensor, threat: ThreatModel, x: Tensor, number: int) -> None:
    if outcome.fooled is not None:
        outcome.fooled[number, found.indices] = found.fooled
    standing = outcome.broken_by[found.indices] < 0
    new = standing & found.fooled
    stronger = new | (standing & (found.margin > best[found.indices]))
    where, kept = found.indices[stronger], found.x_adv[stronger]
    outcome.x_adv[where] = kept
    outcome.distance[where] = threat.distance(kept, x[where])
    best[where] = found.margin[stronger]
    outcome.broken_by[found.indices[new]] = number
    outcome.adversarial[found.indices[new]] = found.predicted[new]


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Logits N,K on the CPU for images N,C,H,W on any device."""
    device = device_of(model)
    fp32 = model if isinstance(model, Counted) else Counted(model)
    logits = [fp32(batch.to(device)) for batch in x.split(batch_size)]
    return torch.cat(logits).cpu()
