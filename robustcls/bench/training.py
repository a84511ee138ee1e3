"""The speed of training. A workload is clean, fgsm_rs, pgdN or tradesN, where N is the number of attack steps."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcls.core.threat import ThreatModel, parse_eps
from robustcls.data.images import Images
from robustcls.runtime.flops import FlopCounter
from robustcls.runtime.memory import peak_memory_mb
from robustcls.training.config import TrainConfig
from robustcls.training.run import Run

WARM_UP = 2  # updates that are not timed
COUNTED = 8  # images in the update whose operations are counted
BETA = 6.0
FGSM_STEP = 1.25  # step size in units of eps (Wong et al. 2020, arXiv:2001.03994)
VARIANTS: dict[str, dict[str, Any]] = {  # options of a run; all except the first are only for CUDA
    "": {},
    ", compiled": {"compile": True},
    ", CUDA graphs": {"compile": True, "cuda_graphs": True},
}
Task = dict[str, Any]
Result = dict[str, Any]


def options_of(workload: str, threat: ThreatModel) -> dict[str, Any]:
    """Return the fields of TrainConfig for a workload."""
    kind, steps = parse_workload(workload)
    if kind == "clean":
        return {"adv": "none", "objective": "standard"}
    if kind == "fgsm_rs":
        return {"adv": f"fgsm(random_start=True, step_size={FGSM_STEP * threat.eps})"}
    return {"adv": f"pgd(steps={steps})", "objective": f"trades(beta={BETA})" if kind == "trades" else "adversarial"}


def parse_workload(workload: str) -> tuple[str, int]:
    """Split a workload such as `pgd10` into its kind and its number of steps; 1 if there is no number."""
    kind = workload.rstrip("0123456789")
    return kind, int(workload[len(kind) :] or 1)


def threat_of(task: Task) -> ThreatModel:
    return ThreatModel(task["norm"], parse_eps(task["eps"]))


def make_run(
    images: Images, task: Task, *, val: Images | None = None, folder: Path = Path("unused"), **changes: Any
) -> Run:
    """Return a run to measure, without augmentation and with a constant learning rate."""
    options = {
        "data": "bench", "arch": task["arch"], "norm": task["norm"], "eps": task["eps"], "epochs": 10_000, "lr": 0.02,
        "schedule": "constant", "augment": "none", "batch_size": task["batch_size"], "device": task["device"],
        "precision": task["precision"], "seed": task["seed"],
    }  # fmt: skip
    return Run(TrainConfig(**options | changes), folder, images, images if val is None else val)


def updates_of(run: Run) -> Iterator[Tensor]:
    """Update the model of a run without end, and yield the loss of each update."""
    while True:
        run.state.train_mode()
        for x, y in run.batches():
            yield run.state.train_step(x, y).total
        run.state.epoch, run.state.batch = run.state.epoch + 1, 0


def time_training(workload: str, images: Images, task: Task, **options: Any) -> Result:
    """Measure images per second of a workload, without validation and writing of files."""
    run = make_run(images, task, **options_of(workload, threat_of(task)), **options)
    return measure(updates_of(run), task, run.batch_size, run.precision)


def measure(updates: Iterator[Tensor], task: Task, batch_size: int, precision: str) -> Result:
    """Measure images per second over task["updates"] updates; the first two are warm-up. updates: yields the loss of each."""
    losses: list[Tensor] = []
    started = 0.0
    for number, loss in zip(range(task["updates"]), updates, strict=False):
        losses.append(loss.detach())
        if number + 1 == WARM_UP:
            float(losses[-1])  # waits for the device
            started = time.perf_counter()
    last = float(losses[-1])
    seconds = time.perf_counter() - started
    assert last == last, "the loss is not a number"
    return {
        "images_per_second": batch_size * (task["updates"] - WARM_UP) / seconds,
        "precision": precision,
        "losses": [float(value) for value in losses],
        "peak_memory_mb": peak_memory_mb(),
    }


def update_flops(workload: str, images: Images, task: Task) -> float:
    """Count the floating-point operations per image of one update in fp32, including the attack."""
    few = images.take(torch.arange(COUNTED))
    options = options_of(workload, threat_of(task))
    run = make_run(few, task | {"batch_size": COUNTED, "precision": "fp32"}, **options)
    with FlopCounter() as counter:
        next(updates_of(run))
    return counter.total / COUNTED
