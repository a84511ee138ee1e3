"""The rehearsal before a run: one training step to find errors early, and a few more to measure the cost."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
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

TIMED = 3  # updates that are timed
VALIDATION = 0.1  # of the training time: what validation may cost where `val_every` is not given
VALIDATIONS = 4  # validations in a run that are kept even where they cost more than that


@contextmanager
def as_it_was(state: TrainState) -> Iterator[None]:
    """Restore the state and PyTorch's random states at the end of the block, whatever was trained inside."""
    before = copy.deepcopy(state.state_dict())
    with own_random(state.device):
        try:
            yield
        finally:
            state.load_state_dict(before)


def rehearse(run: Run) -> None:
    """Train, attack and validate once on a few images, then restore the state: errors appear before anything is written.

    Sets `val_every` where it is not given, by counted operations, so that equal runs are validated in the same epochs.
    """
    state = run.state
    x, y = choose(run.train, 2 * run.config.accumulate).batch()
    if run.config.without_labels:
        y[1::2] = UNLABELLED
    with as_it_was(state), uncompiled(), FlopCounter() as update:
        state.epoch, state.batch = run.config.epochs - 1, state.num_batches - 1  # after every warm-up
        state.seed(run.config.seed)
        state.train_mode()
        state.train_step(*run.augment(x, y, state.generator))
    tried = min(2, len(run.val))
    with own_random(run.device), FlopCounter() as validation:
        run.validate(tried)
    if run.config.val_every is None and not run.config.minutes:
        training = update.total / len(x) * state.num_batches * run.images_per_batch
        validating = validation.total / tried * min(run.config.val_n, len(run.val))
        share = validating / training if training else 0.0
        run.config.val_every = validation_interval(share, run.config.patience, lambda _: run.config.epochs)


def validation_interval(share: float, patience: int, epochs: Callable[[int], int]) -> int:
    """Return a `val_every` with which validation costs at most the fraction VALIDATION of training.

    It is smaller where fewer than VALIDATIONS validations would be left, or none within `patience` epochs. share: cost of one
    validation as a fraction of the training of an epoch. epochs: number of epochs of the run for a value of `val_every`.
    """
    every = max(1, math.ceil(share / VALIDATION))
    return max(1, min(every, epochs(every) // VALIDATIONS, patience or every))


@dataclass(frozen=True)
class Cost:
    """The size of a model and the measured cost of training it."""

    parameters: int
    trained: int  # parameters that are trained
    forward_flops: float  # per image; a multiply-add counts as two
    update_flops: float  # per image: attack, forward pass and backward pass
    images_per_second: float  # attacked as at the end of the run
    timed: int  # number of updates that were timed
    epoch_seconds: float  # mean over the run, including validation
    val_seconds: float
    peak_memory_mb: float


def measure_cost(run: Run, seconds: float = 0.0) -> Cost:
    """Measure the cost of training, then restore the state of the run.

    The operations of one update are counted, one more update warms up, and the next ones are timed, including the preparation
    of their batches. That is done at the end of the run, after every warm-up, and where the run begins without an attack (see
    `eps_ramp`), at its beginning too.

    seconds: keep timing for this long, where that takes more than TIMED updates; at most one epoch.
    """
    state = run.state
    with as_it_was(state):
        state.train_mode()
        last = 0 if seconds else max(0, state.num_batches - TIMED - 2)
        timed, update_flops = _time_updates(run, run.config.epochs - 1, last, seconds)
        full = average = statistics.median(timed)
        if state.ramp:
            unattacked = statistics.median(_time_updates(run, 0, 0)[0])
            average = full - state.ramp[0] * (full - unattacked)
    model = state.eval_model
    with uncompiled(), frozen(model):
        flops = forward_flops(model, choose(run.train, 1).batch()[0].to(run.device))
    with own_random(run.device):
        run.validate(min(run.batch_size, run.config.val_n))  # warms up
        started = time.perf_counter()
        run.validate(run.config.val_n)
        val_seconds = time.perf_counter() - started
    return Cost(
        parameters=sum(p.numel() for p in plain_parameters(state.model).values()),
        trained=sum(p.numel() for p in state.model.parameters() if p.requires_grad),
        forward_flops=flops,
        update_flops=update_flops,
        images_per_second=run.images_per_batch / full,
        timed=len(timed),
        epoch_seconds=average * state.num_batches + val_seconds,
        val_seconds=val_seconds,
        peak_memory_mb=peak_memory_mb(),
    )


def _time_updates(run: Run, epoch: int, batch: int, seconds: float = 0.0) -> tuple[list[float], float]:
    """Return the seconds of each timed update from this batch on, and the operations of an update per image."""
    state, durations, flops = run.state, [], 0.0
    state.epoch, state.batch = epoch, batch
    started = time.perf_counter()
    for number, (x, y) in enumerate(run.batches()):
        if number == 0:
            with uncompiled(), FlopCounter() as counter:
                state.train_step(x, y)
            flops = counter.total / len(x)
        else:
            state.train_step(x, y)
        wait_for(run.device)
        now = time.perf_counter()
        durations.append(now - started)
        started = now
        if number > TIMED and sum(durations[2:]) >= seconds:
            break
    return durations[2:] or durations[-1:], flops


def fit_epochs(run: Run, began: float) -> None:
    """Set the number of epochs so that training and validation fit in what is left of config.minutes; at least one epoch.

    Where `val_every` is not given, it is set by measured time. All processes must call it.

    began: time.perf_counter() at the start. Reading the data, compiling and this measurement count as part of the time.
    """
    cost = measure_cost(run)
    training, left = cost.epoch_seconds - cost.val_seconds, 60 * run.config.minutes - (time.perf_counter() - began)

    def epochs(every: int) -> int:
        return max(1, int(left / (training + cost.val_seconds / every)))

    every = run.config.val_every
    if every is None:
        every = validation_interval(cost.val_seconds / training, run.config.patience, epochs)
    run.config.epochs, run.config.val_every = run.world.gather((epochs(every), every))[0]
    run.config.minutes = 0.0  # so that the written configuration reproduces this run
