"""The speed of attacks: an evaluation's cascade with its self-checks, in each precision and mode that the device supports."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.bench.training import Result, Task, parse_workload, threat_of
from robustcls.core.threat import ThreatModel
from robustcls.evaluation.attacks import suite_attacks
from robustcls.evaluation.evaluate import evaluate_subject
from robustcls.evaluation.plan import make_plan
from robustcls.evaluation.subject import make_subject
from robustcls.results.records import Evaluation
from robustcls.runtime.device import exact_fp32, has_bf16
from robustcls.runtime.memory import peak_memory_mb

EXACT = ", exact fp32"  # without TF32 or bf16; the reference with which the other modes must agree
WAYS = {"": "", EXACT: "exact", ", bf16 first": "bf16", ", compiled": "compiled"}
AGREED = 0.3  # largest allowed difference of robust accuracy between exact fp32 and another mode, in points


def ways_of(device: torch.device) -> list[str]:
    """Return the modes of computing, besides the default, that the device supports."""
    return ["exact"] + ["bf16"] * has_bf16(device) + ["compiled"] * (device.type == "cuda")


def timed_evaluation(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, attacks: Sequence[str], task: Task, way: str = ""
) -> tuple[float, Evaluation]:
    """Evaluate images N,C,H,W in one mode of computing; return the seconds and the evaluation."""
    precision: str = {"exact": "fp32", "bf16": "bf16"}.get(way) or task["precision"]

    def run(count: int, attacks: Sequence[str]) -> Evaluation:
        subject = make_subject(model, x[:count], y[:count], threat)
        plan = make_plan(
            subject, attacks, precision=precision, compiled=way == "compiled", batch_size=task["batch_size"],
            seed=task["seed"],
        )  # fmt: skip
        return evaluate_subject(subject, plan)

    with exact_fp32() if way == "exact" else nullcontext():
        run(8, ["pgd(steps=2)"])  # warms up
        started = time.perf_counter()
        evaluation = run(len(y), attacks)
        return time.perf_counter() - started, evaluation


def time_attacks(workload: str, model: nn.Module, x: Tensor, y: Tensor, task: Task, way: str, flops: float) -> Result:
    """Measure `fast`, `standard` or `pgdN` once. flops: of a forward pass; an input gradient costs the same."""
    kind, steps = parse_workload(workload)
    attacks = [f"pgd(steps={steps})"] if kind == "pgd" else suite_attacks(workload, task["norm"])
    seconds, found = timed_evaluation(model, x, y, threat_of(task), attacks, task, way)
    passes = sum(attack.forwards + attack.backwards for attack in found.attacks)
    return {
        "seconds": seconds,
        "images_per_second": len(y) / seconds,
        "flop_per_second": passes * flops / seconds,
        "precision": found.provenance.precision,
        "clean_accuracy": found.clean.accuracy,
        "robust_accuracy": found.robust.accuracy,
        "peak_memory_mb": peak_memory_mb(),
    }


def agreement(exact: Result, others: Mapping[str, Result], n: int) -> dict[str, Any]:
    """Whether every mode gives the robust accuracy of exact fp32, to within AGREED points. n: number of samples."""
    points = {
        name: 100 * (row["robust_accuracy"] - exact["robust_accuracy"])
        if "seconds" in row and "seconds" in exact
        else None
        for name, row in others.items()
    }
    found = {"points": points, "limit": AGREED, "n": n}
    differences = [abs(value) for value in points.values() if value is not None]
    if len(differences) < len(points) or not points:
        return found | {"status": "not_run", "reason": "a measurement did not finish"}
    if 100 / n > AGREED:
        return found | {"status": "not_run", "reason": f"one sample of {n} is more than {AGREED} points"}
    return found | {"status": "pass" if max(differences) <= AGREED + 1e-9 else "fail"}
