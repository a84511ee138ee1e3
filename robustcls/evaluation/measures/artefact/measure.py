"""Compare an exported file with the model that it was exported from, under the same attacks.

The file's logits come from onnxruntime, its gradients from its graph in PyTorch, with rounding passed straight through (BPDA,
arXiv:1802.00420). By chance, an attack on one of two nearly equal models misses examples that an attack on the other finds.
Each model therefore gets the same sets of attacks: its own white-box attacks twice, the other model's examples, and Square; and
the unions are compared. The second white-box run has another seed and, on the file, gradients that also pass where a range
clips values.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.processor import EIGHT_BIT, cpu_flags
from robustcls.core.progress import follow
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.evaluation.artefact_speed import size_of_file, size_of_module, time_runs
from robustcls.evaluation.attacks import NamedAttack, as_attacks
from robustcls.evaluation.cascade import Outcome, run_cascade
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.measures.artefact.record import Artefact, Labels, Latency, Maps, Side
from robustcls.evaluation.measures.artefact.verdict import BOUNDS, masking
from robustcls.evaluation.measures.calibration.measure import reliability
from robustcls.evaluation.subject import Subject, Surrogate
from robustcls.models.onnx.net import net_of
from robustcls.models.onnx.operators.straight import gradients_past_ranges
from robustcls.results.records import Accuracy, Check, Evaluation
from robustcls.results.statistics import paired_difference
from robustcls.runtime.predict import predict

if TYPE_CHECKING:
    from robustcls.evaluation.pace import Pace

TRANSFER = "apgd_ce(steps=50)"  # on the other model, without early stop: its boundary is not where this one's is
SQUARE = "square(queries=500)"
PASSES = 2 * (350 + 150 + 350)  # of a sample, about: two white boxes, transfer and Square, of two models
MAPS_N = 50


def available(subject: Subject, evaluation: Evaluation) -> int:
    """Return the number of samples. Raises InputError if the model is not an exported file."""
    if net_of(subject.model) is None:
        raise InputError("the model is not an exported file: robustcls export writes one")
    return len(subject.y)


def seconds(pace: "Pace") -> float:
    return PASSES * pace.forward


def measure(
    subject: Subject,
    evaluation: Evaluation,
    *,
    n: int,
    attacks: Sequence[NamedAttack],
    methods: Sequence[str] = (),
    batch_size: int,
    seed: int,
    progress: bool = False,
) -> Artefact:
    """Return the file's size and speed and, with its original, a comparison of the two on at most n samples."""
    net, other, shape = net_of(subject.model), subject.original, subject.x[:1].shape
    assert net is not None
    with torch.inference_mode(False), frozen(subject.model), frozen(other.model) if other else nullcontext():
        record = Artefact(
            *size_of_file(net, shape),
            latency=[Latency(*one) for one in time_runs(net, shape, other.model if other else None)],
            cpu=sorted(set(EIGHT_BIT) & cpu_flags()),
            quantization=subject.quantization,
            no_gradient=net.no_gradient,
        )
        if other is None:
            return record
        record.source = other.record.name
        record.original = Side(*size_of_module(other.model, shape))
        at = spaced(subject.y, n)
        file = replace(subject.take(at), surrogate=None)
        before = replace(file, model=other.model, y=other.y[at], model_record=other.record)
        _compare(record, subject, file, before, attacks, batch_size, mix(seed, *b"artefact"), progress)
        evaluation.checks.append(_check_masking(record, len(at)))
        if methods:
            record.maps = _maps(file, before, str(methods[0]), batch_size, seed)
    return record


def _compare(
    record: Artefact,
    subject: Subject,
    file: Subject,
    before: Subject,
    attacks: Sequence[NamedAttack],
    batch_size: int,
    seed: int,
    progress: bool,
) -> None:
    """Fill in the comparison of the two models. Raises InputError unless they have the same classes."""
    assert record.original is not None
    attacks = [*attacks, *as_attacks(TRANSFER)]  # each model also gets the transfer attack as a white-box attack
    ours = _Side(file, batch_size, seed, partial(follow, label="artefact: file", show=progress))
    theirs = _Side(before, batch_size, seed, partial(follow, label="artefact: original", show=progress))
    if ours.logits.shape != theirs.logits.shape or not torch.equal(file.y, before.y):
        raise InputError(
            f"the file has other classes than {record.source}: give the model that it was exported from as `original`"
        )
    sides = ours, theirs
    for side in sides:
        side.white_box(attacks)
    for one, other in (sides, reversed(sides)):
        one.transfer_from(other)
    left = ours.union | theirs.union  # Square runs on both models for samples on which either is still robust
    for side in sides:
        side.square(left)
    record.rule = (
        f"{len(file.y)} samples, evenly spaced over the classes; each model is attacked twice by "
        f"{', '.join(map(str, attacks))}, with different seeds, then by the adversarial images of the other model, by "
        f"{TRANSFER} on the other model without early stopping, and by {SQUARE}"
    )
    record.agreement = Accuracy.of(int((ours.clean == theirs.clean).sum()), len(file.y))
    record.labels = _labels(subject, ours, theirs)
    ours.describe(record)
    theirs.describe(record.original)
    record.clean_difference, record.clean_ci95 = _difference(theirs.correct, ours.correct)
    record.seed_noise = theirs.second_alone
    if ours.differentiable:
        record.difference, record.ci95 = _difference(theirs.union, ours.union)
        record.masked, record.masked_original = (int((side.first & ~side.union).sum()) for side in sides)


class _Side:
    """One of the two models, and which of its samples are robust under each set of attacks; N, bool."""

    def __init__(self, own: Subject, batch_size: int, seed: int, show: Any) -> None:
        self.own, self.batch_size, self.seed, self.show = own, batch_size, seed, show
        self.engine = Engine(own, batch_size, seed=seed)
        self.net = net_of(own.model)
        self.differentiable = self.net is None or self.net.differentiable
        self.logits = self.engine.logits
        self.clean = predict_labels(self.logits)
        self.correct = self.clean == own.y
        self.white, self.transferred = self.correct.clone(), self.correct.clone()
        self.squared = self.union = self.white

    def white_box(self, attacks: Sequence[NamedAttack]) -> None:
        """Run the attacks on this model, then once more on the samples still robust."""
        chosen = [attack for attack in attacks if self.differentiable or not attack.traits.gradients]
        first = self._cascade(self.engine, chosen)
        self.x_adv, self.first, self.white = first.x_adv, first.robust, first.robust.clone()
        self.tied = first.robust & (first.margin >= 0)
        left, self.second_alone = first.robust.nonzero().squeeze(1), 0
        if len(left):
            again = Engine(self.own.take(left), self.batch_size, seed=mix(self.seed, *b"again"))
            with gradients_past_ranges():
                second = self._cascade(again, chosen)
            self.x_adv[left[second.success]] = second.x_adv[second.success]
            self.white[left] &= second.robust
            self.second_alone = int(second.success.sum())

    def _cascade(self, engine: Engine, attacks: Sequence[NamedAttack]) -> Outcome:
        outcome = run_cascade(engine, attacks)
        for one in outcome.records:
            if one.error:  # the attack ran on the other model, so the unions could not be compared
                raise InputError(f"{one.name} on {self.own.model_record.name} failed: {one.error}")
        return outcome

    def transfer_from(self, other: "_Side") -> None:
        """Test the other model's examples and strongest attempts, and those of an attack on it without early stopping."""
        attempts = self.engine._verify(other.x_adv, torch.arange(len(self.own.y)), self.own.threat)
        self.transferred &= ~attempts.success
        if other.differentiable:
            surrogate = Surrogate(other.own.model, other.own.model_record, other.own.y)
            crafted = Engine(replace(self.own, surrogate=surrogate), self.batch_size, seed=self.seed)
            self.transferred &= ~self._broken(crafted, TRANSFER, self.correct)
        self.union = self.white & self.transferred

    def square(self, left: Tensor) -> None:
        """Run Square on the samples `left`: those on which either model is still robust."""
        self.squared = self.white & ~self._broken(self.engine, SQUARE, self.correct & left)
        self.union = self.union & self.squared

    def _broken(self, engine: Engine, attack: str, met: Tensor) -> Tensor:
        broken = torch.zeros_like(met)
        try:
            for attempts in engine.attack(attack, met.nonzero().squeeze(1), self.own.threat, (9,), progress=self.show):
                broken[attempts.indices] = attempts.success
        except AttackError as failure:
            raise InputError(f"{attack} failed: {failure}") from None
        return broken

    def describe(self, record: Side) -> None:
        kept = {"clean": self.correct, "transfer": self.transferred, "square": self.squared, "union": self.union}
        if self.differentiable:
            kept |= {"white_box": self.white, "white_box_once": self.first}
        for name, samples in kept.items():
            setattr(record, name, Accuracy.of(int(samples.sum()), len(samples)))
        record.ece = reliability(self.logits, self.own.y).ece
        attacked = predict(self.engine.model, self.x_adv, self.batch_size)
        record.ece_adversarial = reliability(attacked, self.own.y).ece


def _check_masking(record: Artefact, n: int) -> Check:
    status = masking(record)
    if record.masked is None or record.masked_original is None:
        return Check("artefact_masking", status, None, None, f"no white-box attack on the file: {record.no_gradient}")
    ties = record.labels.ties_attacked if record.labels else 0
    what = (
        f"the second white-box run, transfer attacks and Square broke {record.masked} of {n} samples that withstood the first "
        f"white-box run on the file, and {record.masked_original} that withstood the one on the original"
    )
    more = record.masked - record.masked_original
    if status != "pass" and more >= ties:
        what += "; the file's gradients are masked: rely on its accuracy under all attacks, not under white-box attacks"
    elif status != "pass":
        what += f"; {ties} samples count as robust only by a tie with another class: the file's logits are rounded"
    return Check("artefact_masking", status, max(more, ties) / n, BOUNDS["warn"][1], what)


def _difference(before: Tensor, after: Tensor) -> tuple[float, list[float]]:
    difference, interval = paired_difference(before.tolist(), after.tolist())
    return difference, list(interval)


def _labels(subject: Subject, ours: _Side, theirs: _Side) -> Labels:
    y, before, after = ours.own.y, theirs.clean, ours.clean
    names = subject.classes or subject.model_record.classes
    top = ours.logits.topk(2).values
    return Labels(
        lost=_by_class(y[(before == y) & (after != y)], names),
        gained=_by_class(y[(before != y) & (after == y)], names),
        moved=_by_class(y[(before != y) & (after != y) & (before != after)], names),
        ties=int((top[:, 0] == top[:, 1]).sum()),
        largest_difference=(ours.logits - theirs.logits).abs().max().item(),
        ties_attacked=int((ours.tied & ours.union).sum()),
        twin_same=_twin_same(ours),
    )


def _twin_same(side: _Side) -> int | None:
    if side.net is None or side.net.twin is None:
        return None
    with side.net.in_pytorch():
        return int((predict_labels(predict(side.own.model, side.own.x, side.batch_size)) == side.clean).sum())


def _by_class(labels: Tensor, names: Any) -> dict[str, int]:
    return {str(names[label]) if label < len(names) else str(label): n for label, n in Counter(labels.tolist()).items()}


def _maps(file: Subject, before: Subject, method: str, batch_size: int, seed: int) -> Maps | None:
    """Return rank correlations of the two models' maps of the original's predicted class, on the same images."""
    from robustcls.attribution import collapse, explain
    from robustcls.attribution.measures.similarity import shuffled, spearman

    x = file.x[:MAPS_N]
    target = predict_labels(predict(before.model, x, batch_size))
    noisy = before.threat.random_start(x, torch.Generator().manual_seed(seed)).clamp(0, 1)
    try:
        maps = [
            explain(model, images, target, method, batch_size=batch_size, seed=seed, keep_nonfinite=True)
            for model, images in ((file.model, x), (before.model, x), (before.model, noisy))
        ]
    except InputError:  # the method needs layers or rules that a graph of operators does not have
        return None
    of_file, clean, of_noisy = map(collapse, maps)
    medians = [spearman(clean, one).median().item() for one in (of_file, of_noisy, shuffled(clean, seed))]
    return Maps(method, len(x), *medians)
