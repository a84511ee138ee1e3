"""The memory of epochs, and the time of validation."""

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
