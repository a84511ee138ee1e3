"""An exported file beside the model that it was made of, attacked alike.

The file's logits are onnxruntime's, its gradients those of its graph in PyTorch, straight through rounding (BPDA,
arXiv:1802.00420). An attack on one of two nearly equal models misses examples that the other's finds, by chance; so each
gets the same sets of attacks: its own white box, the other's examples, and Square; and the unions are compared.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.progress import follow
from robustcls.core.seeds import mix
from robustcls.core.subset import spaced
from robustcls.evaluation.attacks import NamedAttack
from robustcls.evaluation.cascade import run_cascade
from robustcls.evaluation.engine import AttackError, Engine
from robustcls.evaluation.measures.artefact.record import Agreement, Artefact, Maps, Side
from robustcls.evaluation.measures.artefact.running import describe_runtime
from robustcls.evaluation.measures.calibration.measure import reliability
from robustcls.evaluation.subject import Subject, Surrogate
from robustcls.models.onnx.net import net_of
from robustcls.results.records import Accuracy, Check, Evaluation
from robustcls.results.statistics import paired_difference
from robustcls.runtime.predict import predict

if TYPE_CHECKING:
    from robustcls.evaluation.pace import Pace

TRANSFER = "apgd_ce(steps=50)"  # on the other model, without early stop: its boundary is not where this one's is
SQUARE = "square(queries=1000)"
PASSES = 2 * (20 + 2 * 50 + 2 * 2 * 50) + 1000  # of a sample, about: cascade twice, transfer, Square
MAPS_N = 50
BOUNDS = {"fail": (4, 0.1), "warn": (2, 0.03)}  # of what was masked more than in the original: samples, share of all


def available(subject: Subject, evaluation: Evaluation) -> int:
    """Raises InputError where the model is not an exported file."""
    if net_of(subject.model) is None:
        raise InputError("the model is not an exported file: `robustcls export` writes one")
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
    original: str | None = None,
    progress: bool = False,
) -> Artefact:
    """The file's size and speed; with its original also what the two keep of each other, on at most n samples."""
    net = net_of(subject.model)
    assert net is not None
    other = subject.original
    record = Artefact(describe_runtime(net, subject.x[:1].shape, other.model if other else None), subject.quantization)
    if other is None:
        return record
    record.source = other.record.name
    at = spaced(subject.y, n)
    file = replace(subject.take(at), surrogate=None)
    before = replace(file, model=other.model, y=other.y[at], model_record=other.record)
    with torch.inference_mode(False), frozen(subject.model), frozen(other.model):
        _compare(record, subject, file, before, attacks, batch_size, seed, progress)
        evaluation.checks.append(_masking(record, n))
        if methods:
            record.maps = _maps(file, before, str(methods[0]), batch_size, seed)
    return record


def _compare(
    record: Artefact,
    subject: Subject,
    file: Subject,
    before: Subject,
    attacks: Sequence[Any],
    batch_size: int,
    seed: int,
    progress: bool,
) -> None:
    attacks = [*attacks, TRANSFER]  # each meets on itself what it meets by transfer
    sides = [
        _Side(one, other, attacks, batch_size, mix(seed, *b"artefact"), progress, label)
        for one, other, label in ((file, before, "file"), (before, file, "original"))
    ]
    for one, other in (sides, reversed(sides)):
        one.transfer_from(other)
    left = sides[0].union | sides[1].union  # both meet Square wherever one of them stands
    for side in sides:
        side.square(left)
    again = _Side(before, file, attacks, batch_size, mix(seed, *b"another seed"), progress, "original, another seed")
    ours, theirs = sides
    record.rule = (
        f"{len(file.y)} samples, evenly spaced over the classes; each model meets {', '.join(map(str, attacks))} on itself, "
        f"the other's examples and {TRANSFER} on the other without early stop, and {SQUARE}"
    )
    record.agreement = _agreement(subject, file, ours.logits, theirs.logits, batch_size)
    record.file, record.original = ours.record(), theirs.record()
    record.clean_difference, record.clean_ci95 = _difference(theirs.correct, ours.correct)
    record.robust_difference, record.robust_ci95 = _difference(theirs.union, ours.union)
    record.noise_flips = int((again.white != theirs.white).sum())
    record.masked, record.masked_original = (int((side.white & ~side.union).sum()) for side in sides)


class _Side:
    """One model and what is left of its correct samples after each set of attacks; N, bool."""

    def __init__(
        self, own: Subject, other: Subject, attacks: Any, batch_size: int, seed: int, progress: bool, label: str
    ) -> None:
        self.own, self.batch_size, self.seed = own, batch_size, seed
        self.show = partial(follow, label=f"artefact: {label}", show=progress)
        self.engine = Engine(own, batch_size, seed=seed)
        self.logits = self.engine.logits
        self.correct = predict_labels(self.logits) == own.y
        self.outcome = run_cascade(self.engine, attacks)
        self.white = self.outcome.robust
        self.transferred = self.correct.clone()
        self.squared = self.union = self.white.clone()

    def transfer_from(self, other: "_Side") -> None:
        """The other's examples and strongest attempts, and what an attack on it makes that does not stop early."""
        mine = self.engine._verify(other.outcome.x_adv, torch.arange(len(self.own.y)), self.own.threat)
        self.transferred &= ~mine.success
        record = other.own.model_record
        crafted = Engine(
            replace(self.own, surrogate=Surrogate(other.own.model, record, other.own.y)),
            self.batch_size,
            seed=self.seed,
        )
        self.transferred &= ~self._broken(crafted, TRANSFER, self.correct)
        self.union = self.white & self.transferred

    def square(self, left: Tensor) -> None:
        """On all samples that are left of either model."""
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

    def record(self) -> Side:
        n = len(self.own.y)
        adversarial = predict(self.engine.model, self.outcome.x_adv, self.batch_size)
        return Side(
            clean=Accuracy.of(int(self.correct.sum()), n),
            white_box=Accuracy.of(int(self.white.sum()), n),
            transfer=Accuracy.of(int(self.transferred.sum()), n),
            square=Accuracy.of(int(self.squared.sum()), n),
            union=Accuracy.of(int(self.union.sum()), n),
            ece=reliability(self.logits, self.own.y).ece,
            ece_adversarial=reliability(adversarial, self.own.y).ece,
        )


def _masking(record: Artefact, n: int) -> Check:
    """Whether transfer and Square break much more of the file than of its original, beyond what the white boxes left."""
    assert record.masked is not None and record.masked_original is not None  # noqa: PT018
    more = record.masked - record.masked_original
    status = next((name for name, (count, share) in BOUNDS.items() if more > max(count, share * n)), "pass")
    what = (
        f"transfer and Square broke {record.masked} of {n} samples that the file's white box left, "
        f"and {record.masked_original} of its original's"
    )
    if status != "pass":
        what += "; its gradients are masked: believe the union of attacks, not the white box"
    return Check("artefact_masking", status, more / n, BOUNDS["warn"][1], what)


def _difference(before: Tensor, after: Tensor) -> tuple[float, list[float]]:
    difference, interval = paired_difference(before.tolist(), after.tolist())
    return difference, list(interval)


def _agreement(subject: Subject, file: Subject, ours: Tensor, theirs: Tensor, batch_size: int) -> Agreement:
    mine, before, y = predict_labels(ours), predict_labels(theirs), file.y
    names = subject.classes or subject.model_record.classes
    top = ours.topk(2).values
    return Agreement(
        n=len(y),
        same=int((mine == before).sum()),
        lost=_by_class(y[(before == y) & (mine != y)], names),
        gained=_by_class(y[(before != y) & (mine == y)], names),
        ties=int((top[:, 0] == top[:, 1]).sum()),
        largest_difference=(ours - theirs).abs().max().item(),
        twin_same=_twin_same(file, mine, batch_size),
    )


def _twin_same(file: Subject, labels: Tensor, batch_size: int) -> int | None:
    net = net_of(file.model)
    if net is None or net.twin is None:
        return None
    with net.in_pytorch():
        return int((predict_labels(predict(file.model, file.x, batch_size)) == labels).sum())


def _by_class(labels: Tensor, names: Any) -> dict[str, int]:
    return {str(names[label]) if label < len(names) else str(label): n for label, n in Counter(labels.tolist()).items()}


def _maps(file: Subject, before: Subject, method: str, batch_size: int, seed: int) -> Maps | None:
    """Rank correlations of the two models' maps of the original's predicted class, on the same images."""
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
    except InputError:  # a method that wants layers or rules which a graph of operators does not have
        return None
    mine, clean, shaken = map(collapse, maps)
    medians = [spearman(clean, one).median().item() for one in (mine, shaken, shuffled(clean, seed))]
    return Maps(method, len(x), *medians)
