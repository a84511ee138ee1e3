"""The rehearsal before a run: one training step to find errors early, and a few more to measure the cost."""

import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from robustcls.core.gradients import frozen
from robustcls.core.losses import UNLABELLED, predict_labels
from robustcls.data.images import Images
from robustcls.data.splits import choose
from robustcls.runtime.device import wait_for
from robustcls.runtime.flops import FlopCounter, forward_flops
from robustcls.runtime.fused import uncompiled
from robustcls.runtime.low_rank import plain_parameters
from robustcls.runtime.memory import peak_memory_mb
from robustcls.training.run import Run
from robustcls.training.state import TrainState, own_random

TIMED = 3  # updates that are timed
TINY = 1e-6  # of the radius, with which no attack changes a prediction
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
    state, config = run.state, run.config
    x, y = choose(run.train, 2 * config.accumulate).batch()
    if config.without_labels:
        y[1::2] = UNLABELLED
    operations = _operations(run, x, y, config.epochs - 1, state.num_batches - 1)  # after every warm-up
    if state.ramp:
        operations = _mean(state.ramp[0], _operations(run, x, y, 0, 0), operations)
    few = choose(run.val, 2)
    with own_random(run.device):
        run.validate(len(few))
    if config.val_every is None and not config.minutes:
        most = unbroken(run, few)
        with own_random(run.device), FlopCounter() as validation:
            most.validate(len(few))
        training = operations / len(x) * state.num_batches * run.images_per_batch
        validating = validation.total / len(few) * min(config.val_n, len(run.val))
        share = validating / training if training else 0.0
        config.val_every = validation_interval(share, config.patience, lambda _: config.epochs)


def _operations(run: Run, x: Tensor, y: Tensor, epoch: int, batch: int) -> float:
    """Return the counted operations of an update in this place of the run, on the images x and labels y."""
    state = run.state
    with as_it_was(state), uncompiled(), FlopCounter() as counter:
        state.epoch, state.batch = epoch, batch
        state.seed(run.config.seed)
        state.train_mode()
        state.train_step(*run.augment(x, y, state.generator))
    return counter.total


def _mean(begin: float, first: float, last: float) -> float:
    """Return the mean cost of an update over a run that has the cost `first` up to the share `begin`, and then `last`."""
    return begin * first + (1 - begin) * last


def unbroken(run: Run, images: Images) -> Run:
    """Return the run with these validation images, of which no attack breaks one, so that validation costs the most.

    An attack that drops the images that it has broken costs next to nothing with an untrained model. Here the labels are the
    predicted classes, and the radius is tiny, except for l0, where it is a number of values.
    """
    model = run.state.eval_model
    twin = run.state.twins[model]
    twin.refresh()
    with frozen(model), uncompiled():
        batches = (images.batch(slice(at, at + run.batch_size))[0] for at in range(0, len(images), run.batch_size))
        labels = torch.cat([predict_labels(twin(x.contiguous(memory_format=torch.channels_last))) for x in batches])
    other = copy.copy(run)
    other.val = dataclasses.replace(images, labels=labels)
    other.threat = run.threat if run.threat.norm == "l0" else run.threat.at(run.threat.eps * TINY)
    return other


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
            average = _mean(state.ramp[0], statistics.median(_time_updates(run, 0, 0)[0]), full)
    model = state.eval_model
    with uncompiled(), frozen(model):
        flops = forward_flops(model, choose(run.train, 1).batch()[0])
    with own_random(run.device):
        run.validate(min(run.batch_size, run.config.val_n))  # warms up
        most = unbroken(run, choose(run.val, run.config.val_n))
        started = time.perf_counter()
        most.validate(run.config.val_n)
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
    if left < training + cost.val_seconds:
        too_short = f"an epoch takes about {training + cost.val_seconds:.0f} s, more than what is left of `minutes`"
        run.remark = "; ".join(filter(None, (run.remark, too_short)))
    run.config.epochs, run.config.val_every = run.world.gather((epochs(every), every))[0]
    run.config.minutes = 0.0  # so that the written configuration reproduces this run
