"""What is tried before a run begins: a step, for what would stop it, and a few more, for what it would cost."""

import copy
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from robustcls.core.gradients import frozen
from robustcls.core.losses import UNLABELLED
from robustcls.data.splits import choose
from robustcls.runtime.device import wait_for
from robustcls.runtime.flops import FlopCounter, forward_flops
from robustcls.runtime.fused import uncompiled
from robustcls.runtime.low_rank import plain_parameters
from robustcls.runtime.memory import peak_memory_mb
from robustcls.training.run import Run
from robustcls.training.state import TrainState, own_random

TIMED = 3
VALIDATION = 0.1  # of the training's time, at most, where `val_every` is not given
VALIDATIONS = 5  # in a run, at least, before the share counts


@contextmanager
def as_it_was(state: TrainState) -> Iterator[None]:
    """At the end the state, and PyTorch's random streams, are what they were, whatever was trained inside."""
    before = copy.deepcopy(state.state_dict())
    with own_random(state.device):
        try:
            yield
        finally:
            state.load_state_dict(before)


def rehearse(run: Run) -> None:
    """Takes a step, attacks and validates on a few images, and forgets it: what would stop the run is said first."""
    state = run.state
    x, y = choose(run.train, 2 * run.config.accumulate).batch()
    if run.config.without_labels:
        y[1::2] = UNLABELLED
    with as_it_was(state), uncompiled():
        state.epoch, state.batch = run.config.epochs - 1, state.num_batches - 1  # past whatever has a warm-up
        state.seed(run.config.seed)
        state.train_mode()
        state.train_step(*run.augment(x, y, state.generator))
    with own_random(run.device):
        run.validate(2)


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


def measure_cost(run: Run, seconds: float = 0.0) -> Cost:
    """Counts one update and times others with the making of their batches, after one that warms up; the run is then as it was.

    seconds: time so long rather than TIMED updates, where that is longer, and at most an epoch.
    """
    state, each, update_flops = run.state, [], 0.0
    with as_it_was(state):
        state.train_mode()
        # At the end of the run, where whatever has a warm-up is past it.
        state.epoch, state.batch = run.config.epochs - 1, 0 if seconds else max(0, state.num_batches - TIMED - 2)
        started = time.perf_counter()
        for number, (x, y) in enumerate(run.batches()):
            if number == 0:
                with uncompiled(), FlopCounter() as counter:
                    state.train_step(x, y)
                update_flops = counter.total / len(x)
            else:
                state.train_step(x, y)
            wait_for(run.device)
            now = time.perf_counter()
            each.append(now - started)
            started = now
            if number > TIMED and sum(each[2:]) >= seconds:
                break
    model = state.eval_model
    with uncompiled(), frozen(model):
        flops = forward_flops(model, x[:1])
    with own_random(run.device):
        run.validate(min(run.batch_size, run.config.val_n))  # warms up
        started = time.perf_counter()
        run.validate(run.config.val_n)
        val_seconds = time.perf_counter() - started
    timed = each[2:] or each[-1:]
    update = statistics.median(timed)
    return Cost(
        parameters=sum(p.numel() for p in plain_parameters(state.model).values()),
        trained=sum(p.numel() for p in state.model.parameters() if p.requires_grad),
        forward_flops=flops,
        update_flops=update_flops,
        images_per_second=run.images_per_batch / update,
        timed=len(timed),
        epoch_seconds=update * state.num_batches + val_seconds,
        val_seconds=val_seconds,
        peak_memory_mb=peak_memory_mb(),
    )


def fit_epochs(run: Run, began: float) -> None:
    """Sets the run's epochs to what is left of config.minutes, with validation; at least one. Unless it is given,
    `val_every` becomes the smallest with which validation costs VALIDATION. All processes must call it.

    began: when the time started, by time.perf_counter(). Reading data, compiling and this measurement count too.
    """
    cost = measure_cost(run)
    training, left = cost.epoch_seconds - cost.val_seconds, 60 * run.config.minutes - (time.perf_counter() - began)

    def epochs(every: int) -> int:
        return max(1, int(left / (training + cost.val_seconds / every)))

    every = run.config.val_every
    if every is None:
        every = max(1, math.ceil(cost.val_seconds / (VALIDATION * training)))
        every = max(1, min(every, epochs(every) // VALIDATIONS))
    run.config.epochs, run.config.val_every = run.world.gather((epochs(every), every))[0]
    run.config.minutes = 0.0  # so that the configuration that is written gives this run again
