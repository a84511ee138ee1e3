"""From a model and images to an Evaluation."""

import hashlib
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.logits import unwrapped
from robustcls.core.losses import NO_ANSWER, predict_labels
from robustcls.core.provenance import commit, versions
from robustcls.core.subset import spaced
from robustcls.core.threat import ThreatModel
from robustcls.core.traits import traits_of
from robustcls.evaluation.attack_checks import AttackCheck
from robustcls.evaluation.cascade import Outcome, Progress, run_cascade
from robustcls.evaluation.curve import security_curve
from robustcls.evaluation.diagnostics import check_black_box, run_checks
from robustcls.evaluation.engine import Engine, Over, check_attacks, never
from robustcls.evaluation.finite_checks import check_attempts, check_finite, check_gradients
from robustcls.evaluation.journal import Journal
from robustcls.evaluation.more_steps import check_more_steps
from robustcls.evaluation.radius import check_radius
from robustcls.evaluation.start_checks import check_starts
from robustcls.evaluation.two_classes import tell_apart
from robustcls.results import records
from robustcls.results.balance import balanced_of, find_positive, two_classes_of, two_labels
from robustcls.results.records import Accuracy, Evaluation, Sample, Threat
from robustcls.runtime.device import describe_device, resolve_batch_size, resolve_precision
from robustcls.runtime.fused import Counted
from robustcls.runtime.predict import classifier_of, told
from robustcls.runtime.world import World

CHECKED = 32  # samples of the self-checks that need no attack


@dataclass
class Judged:
    """An evaluation with the tensors it speaks of (CPU): images x, labels y, and what the cascade found."""

    evaluation: Evaluation
    x: Tensor
    y: Tensor
    outcome: Outcome

    @property
    def index(self) -> Tensor:
        """N, of the samples in their split: what their random numbers go by."""
        return torch.tensor([sample.index for sample in self.evaluation.samples])


def judge(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    attacks: Sequence[str],
    *,
    kind: str,
    model_record: records.Model | None = None,
    data_record: records.Data | None = None,
    index: Tensor | None = None,
    batch_size: int | str = "auto",
    precision: str = "auto",
    compiled: bool = False,
    alone: bool = False,
    seed: int = 0,
    eps_grid: Sequence[float] = (),
    checks: Sequence[AttackCheck] = (),
    surrogate: nn.Module | None = None,
    surrogate_record: records.Model | None = None,
    surrogate_labels: Tensor | None = None,
    journal: Journal | None = None,
    world: World | None = None,
    command: str = "robustcls.evaluate",
    config: dict[str, Any] | None = None,
    progress: Progress | None = None,
    positive: str | int | None = None,
    over: Over = never,
) -> Judged:
    """Runs the cascade, the self-checks and the security curve; `evaluate` says more.

    index: position of each image in its split; on it and on the seed alone its random numbers depend. checks:
    self-checks beyond the usual ones, such as ATTACK_CHECKS. surrogate: examples are crafted on it. surrogate_labels: N,
    as it numbers the classes. journal: keeps what is done. positive: of two classes, the one that sensitivity is about.
    over: attacks, of self-checks too, are stopped once it gives a reason; they are recorded with it.
    """
    started, began = datetime.now(UTC), time.perf_counter()
    check_images(images, labels, input_size_of(model))
    threat.check_eps(images.shape[1:])
    if not attacks:
        raise InputError("no attack was named: give --attack or --suite")
    check_attacks(attacks, model, surrogate, threat, eps_grid)
    device = device_of(model)
    model, taken = classifier_of(model, images, labels=labels)
    if taken and model_record is None:
        warnings.warn(f"{type(unwrapped(model)).__name__}: {taken}", stacklevel=3)
    # bf16 first and fp32 again on what stands takes longer than fp32 alone, unless the model is hardly robust.
    precision = resolve_precision("fp32" if precision == "auto" else precision, device)
    size = resolve_batch_size(batch_size, images.shape[1:], device)
    # Gradients are needed even where the caller switched them off, and tensors made in inference mode must be copied.
    with torch.inference_mode(False), frozen(model), frozen(surrogate or model):
        x = images.detach().to("cpu", torch.float32, copy=images.is_inference())
        y = labels.detach().to("cpu", torch.int64, copy=labels.is_inference())
        with torch.no_grad():
            logits = Counted(model)(x[:1].to(device))
            check_logits(logits, y)
        model_record = model_record or describe_model(model, num_classes=logits.shape[1], note=taken)
        if surrogate is not None:
            surrogate = told(surrogate, images, y if surrogate_labels is None else surrogate_labels)
            surrogate_record = surrogate_record or describe_model(surrogate, num_classes=logits.shape[1])
            with torch.no_grad():
                check_logits(Counted(surrogate)(x[:1].to(device)), y if surrogate_labels is None else surrogate_labels)
        own_data = data_record is None  # then its classes are those of the labels
        data_record = data_record or records.Data(
            "tensors", "given", len(y), _hash_tensors(x, y), len(y), "as handed in"
        )
        two = two_labels(model_record, data_record, y.tolist() if own_data else ())
        if positive is not None:
            find_positive(positive, two, model_record, data_record)
        index = torch.arange(len(y)) if index is None else index.cpu()
        engine = Engine(
            model, x, y,
            batch_size=size, precision=precision, compiled=compiled, seed=seed, index=index, surrogate=surrogate,
            surrogate_y=surrogate_labels, journal=journal, world=world, over=over,
        )  # fmt: skip
        if (predict_labels(engine.logits) == NO_ANSWER).all():
            raise InputError(
                "the model's outputs are not numbers on any of these images: look at its weights and its normalisation"
            )
        if journal is not None:
            journal.open({
                "model": [model_record.name, model_record.sha256], "data": data_record.sha256,
                "outputs": data_record.class_map.outputs if data_record.class_map else [], "threat": str(threat),
                "attacks": list(attacks), "each alone": alone, "batch size": size, "precision": precision, "seed": seed,
                "compiled": compiled, "radii": list(eps_grid), "versions": versions(),
                "surrogate": [surrogate_record.name, surrogate_record.sha256] if surrogate_record else [],
            }, engine.logits)  # fmt: skip
        outcome = run_cascade(engine, threat, attacks, alone=alone, progress=progress)
        some = spaced(y, CHECKED)  # of every class: files lie class by class
        # Images on the CPU are the usual case, whatever the model's device.
        handed_in = images.device if images.device.type != "cpu" else None
        found = run_checks(
            engine.judge,
            x[some].to(device),
            y[some].to(device),
            parts=engine.parts,
            handed_in=handed_in,
            surrogate=surrogate,
        )
        found += [
            check_black_box(engine, outcome, threat, attacks), check_more_steps(engine, outcome, threat, attacks),
            check_finite(outcome),
            check_gradients(engine, outcome, threat),
            check_attempts(outcome),
        ]  # fmt: skip
        found += check_radius(x, threat, attacks) + check_starts(engine, outcome, attacks)
        one_by_one: Iterable[Sequence[AttackCheck]] = [(check,) for check in checks]
        if progress is not None and checks:
            one_by_one = progress(list(one_by_one), "self-checks", len(checks), lambda: int(outcome.standing(y).sum()))
        found += [check(engine, outcome, threat, attacks) for (check,) in one_by_one]
        stopped = over()
        curve = (
            security_curve(engine, outcome, threat, attacks, eps_grid, progress) if eps_grid and not stopped else None
        )
        index = torch.arange(len(y)) if index is None else index.cpu()
        samples = _samples(outcome, y, index)
        two_classes = tell_apart(engine, outcome, samples, two) if two else None
    right = outcome.clean == y
    evaluation = Evaluation(
        model=model_record,
        data=data_record,
        threat=_describe_threat(threat, attacks, surrogate_record),
        clean=Accuracy.of(int(right.sum()), len(y)),
        robust=Accuracy.of(int((right & (outcome.broken_by < 0)).sum()), len(y), f"upper bound: {kind}"),
        attacks=outcome.attacks,
        checks=found,
        samples=samples,
        provenance=records.Provenance(
            command=command,
            config=config or {"attacks": list(attacks), "batch_size": size},
            seed=seed,
            versions=versions(),
            device=describe_device(device),
            commit=commit(),
            started=started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - began, 3),
            precision=precision,
            batch_size=min(engine.world.gather(engine.parts.size)),
        ),
        curve=curve,
        surrogate=surrogate_record,
        two_classes=two_classes,
    )
    evaluation.balanced = balanced_of(evaluation)
    evaluation.two_classes = two_classes_of(evaluation, positive)
    if eps_grid and stopped:
        evaluation.not_run["curves"] = stopped
    elif eps_grid and (stopped := over()):
        evaluation.reduced["curves"] = f"radii are missing: {stopped}"
    return Judged(evaluation, x, y, outcome)


def describe_model(
    model: nn.Module, name: str = "", sha256: str = "", num_classes: int = 0, note: str = ""
) -> records.Model:
    """The record of a model: its own class names and input size where it says them, and a hash of its weights."""
    model = unwrapped(model)
    classes = getattr(model, "classes", None)
    if not isinstance(classes, (tuple, list)) or not classes:
        classes = [str(number) for number in range(num_classes)]
    return records.Model(
        name=name or type(model).__name__,
        sha256=sha256 or _hash_weights(model),
        arch=str(getattr(model, "arch", "") or type(model).__name__),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        input_size=list(input_size_of(model) or ()),
        classes=[str(label) for label in classes],
        note=note,
    )


def suite_attacks(suite: str, norm: str) -> list[str]:
    """The attack specs of a suite under a norm. Raises InputError for an unknown one."""
    return plugins.load("suite", suite)(norm)


def _describe_threat(threat: ThreatModel, attacks: Sequence[str], surrogate: records.Model | None) -> Threat:
    described = Threat(threat.norm, threat.eps, threat.eps_text)
    if surrogate is not None:
        described.knowledge = f"transfer: examples are crafted on {surrogate.name}; the judged model gives labels alone"
    elif not any(traits_of(plugins.load("attack", spec)).gradients for spec in attacks):
        described.knowledge = "black box: the attacks see the model's outputs alone"
    return described


def _samples(outcome: Outcome, y: Tensor, index: Tensor) -> list[Sample]:
    names = [attack.name for attack in outcome.attacks]
    fooled = outcome.fooled
    return [
        Sample(
            index=int(index[i]),
            label=int(y[i]),
            clean=_label(outcome.clean[i]),
            adversarial=_label(outcome.adversarial[i]),
            broken_by=names[breaker] if breaker >= 0 else None,
            distance=float(outcome.distance[i]) if breaker >= 0 else None,
            fooled_by=None if fooled is None else [names[a] for a in range(len(names)) if fooled[a, i]],
            nearest={name: _known(distances[i]) for name, distances in outcome.nearest.items()} or None,
        )
        for i, breaker in enumerate(outcome.broken_by.tolist())
    ]


def _label(predicted: Tensor) -> int | None:
    return None if predicted == NO_ANSWER else int(predicted)


def _known(distance: Tensor) -> float | None:
    return None if distance.isnan() else float(distance)


def _hash_tensors(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
