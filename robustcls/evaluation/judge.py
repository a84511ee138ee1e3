"""From a model and images to an Evaluation."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.core import plugins, records
from robustcls.core.classifier import check_images, check_logits, device_of, input_size_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.provenance import commit, versions
from robustcls.core.records import Accuracy, Evaluation, Sample, Threat
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.cascade import Outcome, Progress, run_cascade
from robustcls.evaluation.diagnostics import run_checks
from robustcls.runtime.device import describe_device, resolve_batch_size, resolve_precision
from robustcls.runtime.search import Counted


@dataclass
class Judged:
    """An evaluation with the tensors it speaks of (CPU): images x, labels y, and what the cascade found."""

    evaluation: Evaluation
    x: Tensor
    y: Tensor
    outcome: Outcome


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
    alone: bool = False,
    seed: int = 0,
    command: str = "robustcls.evaluate",
    config: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Judged:
    """Runs the cascade and the self-checks; `evaluate` says more. index: position of each image in its split."""
    started, began = datetime.now(UTC), time.perf_counter()
    check_images(images, labels, input_size_of(model))
    if not attacks:
        raise InputError("no attack was named: give --attack or --suite")
    for spec in attacks:
        plugins.resolved("attack", spec)  # a wrong option is said before hours of work
    device = device_of(model)
    precision = resolve_precision(precision, device)
    size = resolve_batch_size(batch_size, images.shape[1:], device)
    # Gradients are needed even where the caller switched them off, and tensors made in inference mode must be copied.
    with torch.inference_mode(False), frozen(model):
        x = images.detach().to("cpu", torch.float32, copy=True)
        y = labels.detach().to("cpu", torch.int64, copy=True)
        checked, fp32 = min(len(x), size), Counted(model)
        with torch.no_grad():
            check_logits(fp32(x[:1].to(device)), y)
        checks = run_checks(fp32, x[:checked].to(device), y[:checked].to(device))
        outcome = run_cascade(
            model, x, y, threat, attacks,
            batch_size=size, precision=precision, alone=alone, seed=seed, progress=progress,
        )  # fmt: skip
    right = outcome.clean == y
    index = torch.arange(len(y)) if index is None else index.cpu()
    evaluation = Evaluation(
        model=model_record or describe_model(model, num_classes=int(outcome.num_classes)),
        data=data_record or records.Data("tensors", "given", len(y), _hash_tensors(x, y), len(y), "as handed in"),
        threat=Threat(threat.norm, threat.eps, threat.eps_text),
        clean=Accuracy.of(int(right.sum()), len(y)),
        robust=Accuracy.of(int((right & (outcome.broken_by < 0)).sum()), len(y), f"upper bound: {kind}"),
        attacks=outcome.attacks,
        checks=checks,
        samples=_samples(outcome, y, index),
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
        ),
    )
    return Judged(evaluation, x, y, outcome)


def describe_model(model: nn.Module, name: str = "", sha256: str = "", num_classes: int = 0) -> records.Model:
    """The record of a model: its own class names and input size where it says them, and a hash of its weights."""
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
    )


def suite_attacks(suite: str) -> list[str]:
    """The attack specs of a suite. Raises InputError for an unknown one."""
    return plugins.load("suite", suite)()


def _samples(outcome: Outcome, y: Tensor, index: Tensor) -> list[Sample]:
    names = [attack.name for attack in outcome.attacks]
    fooled = outcome.fooled
    return [
        Sample(
            index=int(index[i]),
            label=int(y[i]),
            clean=int(outcome.clean[i]),
            adversarial=int(outcome.adversarial[i]),
            broken_by=names[breaker] if breaker >= 0 else None,
            distance=float(outcome.distance[i]) if breaker >= 0 else None,
            fooled_by=None if fooled is None else [names[a] for a in range(len(names)) if fooled[a, i]],
        )
        for i, breaker in enumerate(outcome.broken_by.tolist())
    ]


def _hash_tensors(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _hash_weights(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
