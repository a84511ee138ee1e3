"""Measure the memory over epochs, and the time of validation."""

import tempfile
import time
from pathlib import Path

import torch

from robustcls.bench.training import Result, Task, make_run
from robustcls.data.images import Images
from robustcls.data.splits import choose
from robustcls.runtime.device import keep_freed_memory
from robustcls.runtime.memory import peak_memory_mb, resident_mb
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from robustcls.training.run import Run

EPOCHS, EPOCH_BATCHES = 4, 6


def epochs(images: Images, task: Task) -> Result:
    """Train short epochs with validation and files; return the memory of each, and the time of one validation.

    task["val_images"]: the most images that the data set has for validation.
    """
    keep_freed_memory()
    memory: list[float] = []
    some = choose(images, max(EPOCH_BATCHES * task["batch_size"], TrainConfig.val_n))
    val = choose(images, task["val_images"])  # taken from the training images, as only the time matters
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
    """Return the peak since the last call on CUDA, otherwise the resident memory; 0 if it is unknown."""
    if not torch.cuda.is_available():
        return resident_mb()
    peak = peak_memory_mb()
    torch.cuda.reset_peak_memory_stats()
    return peak


def _validation_seconds(run: Run) -> float:
    started = time.perf_counter()
    run.validate(run.config.val_n)
    return time.perf_counter() - started
