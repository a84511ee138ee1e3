"""Contestants of the attack suite, on the same model and samples, each in its own process.

The time of a contestant runs from the clean predictions to its own verdicts. The bench verifies its examples afterwards.
"""

import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from experiments.contests.tables import BASELINE
from experiments.contests.workloads import plain_pgd
from robustcls.bench.attacking import timed_evaluation
from robustcls.bench.training import Task
from robustcls.core.gradients import frozen
from robustcls.core.losses import predict_labels
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.attacks import suite_attacks
from robustcls.runtime.device import keep_freed_memory, resolve_batch_size

Strike = Callable[[Tensor, Tensor], Tensor]  # x, y -> x_adv
STANDARD = "pyautoattack standard"
APGD = "pyautoattack's two APGD"
SLOW = "ART AutoAttack"  # takes part only on request
EXACT = "robustcls, exact fp32"  # without TF32 or bf16: the others must agree with it
AUTOATTACK_BATCH = 250  # the default of AutoAttack's code


@dataclass
class Answer:
    """The result of a contestant on N samples."""

    seconds: float
    x_adv: Tensor  # N,C,H,W
    stands: Tensor  # N, robust according to the contestant: correct on the clean image and not fooled
    precision: str = "fp32"
    attacks: list[dict[str, Any]] = field(default_factory=list)  # each stage with its time and passes, if reported


Runner = Callable[[nn.Module, Tensor, Tensor, ThreatModel, Task], Answer]


@dataclass(frozen=True)
class Contestant:
    name: str
    run: Runner
    reference: str  # the contestant of the same contest that it is compared with
    package: str = ""  # the module that it needs, for other libraries
    way: str = ""  # how the search runs: exact, bf16 or compiled; only for the cuda suite


def cascade(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    task: Task,
    *,
    specs: Callable[[Task], Sequence[str]],
    way: str = "",
) -> Answer:
    """Run the cascade of robustcls with the self-checks of an evaluation, searching as `way` says."""
    keep_freed_memory()
    seconds, evaluation = timed_evaluation(model, x, y, threat, specs(task), task, way)
    examples, attacks = evaluation.examples, [asdict(attack) for attack in evaluation.attacks]
    return Answer(seconds, examples.x_adv, examples.robust, evaluation.provenance.precision, attacks)


def in_batches(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    task: Task,
    *,
    make: Callable[[nn.Module, Tensor, ThreatModel, Task], Strike],
    warm_up: bool = True,
) -> Answer:
    """Run an attack that returns only examples, in fp32 on all samples; predictions before and after give the verdicts."""
    strike = make(model, x, threat, task)
    if warm_up:
        strike(x[:8], y[:8])
    size = batch_size_of(task, x)
    started, examples, stands = time.perf_counter(), [], []
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        with torch.no_grad():
            right = predict_labels(model(images)) == labels
        x_adv = strike(images, labels)
        with torch.no_grad():
            stands.append((right & (predict_labels(model(x_adv)) == labels)).cpu())
        examples.append(x_adv)
    return Answer(time.perf_counter() - started, torch.cat(examples), torch.cat(stands))


def batch_size_of(task: Task, x: Tensor) -> int:
    """Return the batch size of all contestants that do not set their own."""
    return resolve_batch_size(task["batch_size"], x.shape[1:], x.device)


def plain(model: nn.Module, x: Tensor, threat: ThreatModel, task: Task) -> Strike:
    """PGD as a plain fp32 loop."""
    generator = torch.Generator(x.device).manual_seed(task["seed"])
    return lambda x, y: plain_pgd(model, x, y, threat, task["steps"], generator)


def foolbox(model: nn.Module, x: Tensor, threat: ThreatModel, task: Task) -> Strike:
    """foolbox's PGD, through its PyTorchModel."""
    import foolbox as fb

    wrapped = fb.PyTorchModel(model, bounds=(0, 1), device=x.device)
    families: dict[str, Any] = {"linf": fb.attacks.LinfPGD, "l2": fb.attacks.L2PGD, "l1": fb.attacks.L1PGD}
    made = families[threat.norm](abs_stepsize=_step_size(threat, task), steps=task["steps"], random_start=True)
    return lambda x, y: made(wrapped, x, y, epsilons=threat.eps)[1]


def torchattacks(model: nn.Module, x: Tensor, threat: ThreatModel, task: Task) -> Strike:
    """torchattacks' PGD."""
    import torchattacks as ta

    family = {"linf": ta.PGD, "l2": ta.PGDL2}.get(threat.norm)
    if family is None:
        raise ValueError(f"torchattacks has no PGD in {threat.norm}")
    return family(model, eps=threat.eps, alpha=_step_size(threat, task), steps=task["steps"])


def art(model: nn.Module, x: Tensor, threat: ThreatModel, task: Task) -> Strike:
    """ART's PGD, through the class that chooses its PyTorch implementation for a PyTorchClassifier."""
    from art.attacks.evasion import ProjectedGradientDescent

    made = ProjectedGradientDescent(
        _art_classifier(model, x), norm=_art_norm(threat), eps=threat.eps, max_iter=task["steps"],
        eps_step=min(_step_size(threat, task), threat.eps),  # ART refuses longer steps
        num_random_init=1, batch_size=batch_size_of(task, x), verbose=False,
    )  # fmt: skip
    return _on_arrays(made)


def art_autoattack(model: nn.Module, x: Tensor, threat: ThreatModel, task: Task) -> Strike:
    """ART's own AutoAttack, with its own composition: APGD twice, DeepFool, Square."""
    from art.attacks.evasion import AutoAttack

    made = AutoAttack(
        _art_classifier(model, x), norm=_art_norm(threat), eps=threat.eps, eps_step=2 * threat.eps,
        batch_size=batch_size_of(task, x),
    )  # fmt: skip
    return _on_arrays(made)


def pyautoattack(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, task: Task, *, only: Sequence[str] = ()
) -> Answer:
    """Run the reference code of AutoAttack's standard version; `only` selects attacks, with the settings of that version."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").disabled = True
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[threat.norm]
    made = AutoAttack(model, norm=norm, eps=threat.eps, seed=task["seed"], version="standard", device=str(x.device))
    made.verbose = False
    if only:
        made.attacks_to_run = list(only)
    with torch.no_grad():
        others = model(x[:1]).shape[1] - 1
    for family in (made.apgd_targeted, made.fab):  # at most as many targets as there are other classes
        family.n_target_classes = min(family.n_target_classes, others)
    plain_pgd(model, x[:8], y[:8], threat, 2, torch.Generator(x.device).manual_seed(task["seed"]))  # warms up
    started = time.perf_counter()
    x_adv, predicted = made.run_standard_evaluation(x, y, batch_size=AUTOATTACK_BATCH)
    stands = (predicted == y).cpu()
    return Answer(time.perf_counter() - started, x_adv, stands)


def _pgd(name: str, make: Callable[..., Strike], package: str = "") -> Contestant:
    return Contestant(name, partial(in_batches, make=make), BASELINE, package)


def _ours(name: str, specs: Callable[[Task], Sequence[str]], reference: str) -> Contestant:
    return Contestant(f"robustcls{name}", partial(cascade, specs=specs), reference)


def _our_ways(specs: Callable[[Task], Sequence[str]], reference: str) -> list[Contestant]:
    """Return robustcls with its default search, and with the other ways of searching."""
    names = {"exact": EXACT, "bf16": "robustcls, bf16 first", "compiled": "robustcls, compiled"}
    return [
        _ours("", specs, reference),
        *(Contestant(name, partial(cascade, specs=specs, way=way), reference, way=way) for way, name in names.items()),
    ]


def _single(ours: str, theirs: str) -> list[Contestant]:
    reference = f"pyautoattack {theirs}"
    return [
        _ours(f" {ours}", lambda task: [ours], reference),
        Contestant(reference, partial(pyautoattack, only=[theirs]), reference, "pyautoattack"),
    ]


CONTESTS: dict[str, list[Contestant]] = {
    "pgd": [
        _pgd(BASELINE, plain),
        *_our_ways(lambda task: [f"pgd(steps={task['steps']})"], BASELINE),
        _pgd("foolbox", foolbox, "foolbox"),
        _pgd("torchattacks", torchattacks, "torchattacks"),
        _pgd("ART", art, "art"),
    ],
    "fast": [
        *_our_ways(lambda task: suite_attacks("fast", task["norm"]), APGD),
        Contestant(APGD, partial(pyautoattack, only=["apgd-ce", "apgd-t"]), APGD, "pyautoattack"),
    ],
    "autoattack": [
        _ours(" standard", lambda task: suite_attacks("standard", task["norm"]), STANDARD),
        _ours(" fast", lambda task: suite_attacks("fast", task["norm"]), STANDARD),
        Contestant(STANDARD, pyautoattack, STANDARD, "pyautoattack"),
        Contestant(SLOW, partial(in_batches, make=art_autoattack, warm_up=False), STANDARD, "art"),
    ],
    "single": [
        *_single("apgd_ce", "apgd-ce"),
        *_single("apgd_t", "apgd-t"),
        *_single("fab_t", "fab-t"),
        *_single("square", "square"),
    ],
}


def run_contestant(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, task: Task) -> Answer:
    """Run the turn of task["contestant"] in task["contest"]."""
    warnings.simplefilter("ignore")  # warnings of other libraries
    torch.manual_seed(task["seed"])
    numpy.random.seed(task["seed"])  # ART uses NumPy's global generator
    contestant = next(one for one in CONTESTS[task["contest"]] if one.name == task["contestant"])
    with frozen(model):
        return contestant.run(model, x, y, threat, task)


def _step_size(threat: ThreatModel, task: Task) -> float:
    return 2.5 * threat.eps / task["steps"]


def _art_classifier(model: nn.Module, x: Tensor):
    from art.estimators.classification import PyTorchClassifier

    with torch.no_grad():
        num_classes = model(x[:1]).shape[1]
    return PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=num_classes,
        clip_values=(0.0, 1.0), device_type="gpu" if x.is_cuda else "cpu",
    )  # fmt: skip


def _art_norm(threat: ThreatModel) -> float | int:
    return {"linf": float("inf"), "l2": 2, "l1": 1}[threat.norm]


def _on_arrays(made: Any) -> Strike:
    return lambda x, y: torch.from_numpy(made.generate(x.cpu().numpy(), y.cpu().numpy())).to(x.device)
