"""What a run would cost, from a few of its own updates, and how many epochs a time allows."""

import statistics
import time
from dataclasses import dataclass

import torch

from robustcls.core.gradients import frozen
from robustcls.runtime.device import wait_for
from robustcls.runtime.flops import FlopCounter
from robustcls.runtime.fused import uncompiled
from robustcls.runtime.memory import peak_memory_mb
from robustcls.training.checkpoint import as_it_was
from robustcls.training.run import Run

TIMED = 3


@dataclass(frozen=True)
class Cost:
    parameters: int
    trained: int
    forward_flops: float  # of one image; two a multiply-add
    update_flops: float  # of one image: attack, forward and backward
    images_per_second: float
    timed: int
    epoch_seconds: float
    val_seconds: float
    peak_memory_mb: float


def measure_cost(run: Run) -> Cost:
    """Counts one update and times others, after one that warms up; the run is then as it was."""
    seconds, update_flops = [], 0.0
    with as_it_was(run):
        run.begin_epoch()
        # At the end of the run, where whatever has a warm-up is past it.
        run.epoch, run.batch = run.config.epochs - 1, max(0, run.num_batches - TIMED - 2)
        for number, (x, y) in zip(range(TIMED + 2), run.batches(), strict=False):
            started = time.perf_counter()
            if number == 0:
                with uncompiled(), FlopCounter() as counter:
                    run.step(run, x, y)
                update_flops = counter.total / len(x)
            else:
                run.step(run, x, y)
            wait_for(run.device)
            seconds.append(time.perf_counter() - started)
    with uncompiled(), FlopCounter() as counter, torch.no_grad(), frozen(run.judged):
        run.judged(x[:1])
    forward_flops = float(counter.total)
    run.validate(min(run.batch_size, run.config.val_n))  # warms up
    started = time.perf_counter()
    run.validate(run.config.val_n)
    val_seconds = time.perf_counter() - started
    timed = seconds[2:] or seconds[-1:]
    each = statistics.median(timed)
    parameters = list(run.model.parameters())
    return Cost(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        forward_flops=forward_flops,
        update_flops=update_flops,
        images_per_second=run.images_per_batch / each,
        timed=len(timed),
        epoch_seconds=each * run.num_batches + val_seconds,
        val_seconds=val_seconds,
        peak_memory_mb=peak_memory_mb(),
    )


def fit_epochs(run: Run, began: float) -> None:
    """Sets the run's epochs to what is left of config.minutes, with validation; at least one. All processes must call it.

    began: when the time started, by time.perf_counter(). Reading data, compiling and this measurement count too.
    """
    seconds = measure_cost(run).epoch_seconds
    left = 60 * run.config.minutes - (time.perf_counter() - began)
    run.config.epochs = run.world.gather(max(1, int(left / seconds)))[0]
    run.config.minutes = 0.0  # so that the configuration that is written gives this run again
