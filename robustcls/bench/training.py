"""What a training contestant is measured on: the run that all start from, its speed, and the memory of its epochs."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcls.data.images import Images
from robustcls.data.splits import choose
from robustcls.runtime.device import keep_freed_memory
from robustcls.runtime.memory import peak_memory_mb, resident_mb
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from robustcls.training.run import Run

WARM_UP = 2
EPOCHS, EPOCH_BATCHES = 4, 6
Task = dict[str, Any]
Result = dict[str, Any]


def make_run(
    images: Images, task: Task, *, val: Images | None = None, folder: Path = Path("unused"), **changes: Any
) -> Run:
    """The run that all contestants start from: no augmentation, a constant rate."""
    options = {
        "data": "bench", "arch": task["arch"], "norm": task["norm"], "eps": task["eps"], "epochs": 10_000, "lr": 0.02,
        "schedule": "constant", "augment": "none", "batch_size": task["batch_size"], "device": task["device"],
        "precision": task["precision"], "seed": task["seed"],
    }  # fmt: skip
    return Run(TrainConfig(**options | changes), folder, images, images if val is None else val)


def our_updates(run: Run) -> Iterator[Tensor]:
    """The loss of each update of a run, for ever."""
    while True:
        run.state.train_mode()
        for x, y in run.batches():
            yield run.state.train_step(x, y).total
        run.state.epoch, run.state.batch = run.state.epoch + 1, 0


def epochs(images: Images, task: Task) -> Result:
    """Short epochs of robustcls with validation and files: memory of each, and the time of one validation.

    task["val_images"]: how many images the data set has for validation, at most.
    """
    keep_freed_memory()
    memory: list[float] = []
    some = choose(images, max(EPOCH_BATCHES * task["batch_size"], TrainConfig.val_n))
    val = choose(images, task["val_images"])  # of the training images, for only the time counts
    with tempfile.TemporaryDirectory() as folder:
        adv = f"pgd(steps={task['steps']})"
        run = make_run(some, task, val=val, folder=Path(folder), adv=adv, epochs=EPOCHS, on_collapse="ignore")
        fit(run, lambda _: None, lambda _: memory.append(_epoch_memory_mb()))
    return {
        "memory_per_epoch_mb": memory,
        "memory_peak_mb": max(*memory, peak_memory_mb()),
        "memory_growth_mb": memory[-1] - memory[1],
        "val_seconds": _validation_seconds(run),
    }


def _epoch_memory_mb() -> float:
    """On CUDA the peak since the last call, else what is resident now; 0 where it cannot be told."""
    if not torch.cuda.is_available():
        return resident_mb()
    peak = peak_memory_mb()
    torch.cuda.reset_peak_memory_stats()
    return peak


def _validation_seconds(run: Run) -> float:
    started = time.perf_counter()
    run.validate(run.config.val_n)
    return time.perf_counter() - started


def measure(updates: Iterator[Tensor], task: Task, batch_size: int, precision: str) -> Result:
    """Images a second over task["updates"] updates, of which the first warm up; each gives its loss."""
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
