"""The training loop. After each epoch it validates the model, checks for catastrophic overfitting, saves, and continues, stops
or rolls back."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor

from robustcls.core.classifier import Classifier
from robustcls.core.objective import Loss
from robustcls.data.splits import choose
from robustcls.results.learning import at_chance, few_updates, first_rise, risen_loss
from robustcls.results.overfitting import catastrophes, shortfall
from robustcls.results.records import Epoch
from robustcls.runtime.fused import uncompiled
from robustcls.training.checkpoint import read_last, restore_state, save_best, save_last
from robustcls.training.run import Run
from robustcls.training.state import own_random

CHECK_EVERY = 16  # batches; reading a flag from the device or from other processes forces a wait
MOST_ROLLBACKS = 5
UNMEASURED = ("train_clean", "val_clean", "val_robust", "val_fgsm")  # None in epochs without validation
SWA_FORWARDS = 50  # batches used to estimate the BatchNorm statistics of averaged weights


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C or SIGTERM; its state was saved between two batches."""


def fit(
    run: Run,
    on_batch: Callable[[Run], object] = lambda run: None,
    on_epoch: Callable[[Epoch], object] = lambda row: None,
) -> None:
    """Train until the run is finished; validate, select the best epoch and save after each epoch.

    on_batch, on_epoch: called after each batch with the run, and after each epoch with its record.
    Raises Interrupted on Ctrl-C or SIGTERM, after saving the state, and Diverged for a loss that is not finite.
    """
    state, every = run.state, run.config.save_every
    with stop_requests() as stopped, own_random(run.device), closing(run):
        while not state.finished:
            state.train_mode()
            started = time.perf_counter()
            for x, y in run.batches():
                state.train_step(x, y)
                now = time.perf_counter()
                state.meter.seconds, started = state.meter.seconds + now - started, now
                on_batch(run)
                if is_time_to_check(run):
                    run.check_finite()
                    if run.world.any(stopped()):
                        save_last(run)
                        raise Interrupted
                if every and state.batch % every == 0:
                    run.check_finite()
                    save_last(run)
            on_epoch(finish_epoch(run))
            if run.world.any(stopped()) and not state.finished:
                raise Interrupted


def is_time_to_check(run: Run) -> bool:
    """Whether to check for a non-finite loss and for stop requests after this batch.

    The check synchronises with the device and the other processes. A single process on the CPU checks after every batch,
    because there it costs nothing.
    """
    alone_on_cpu = run.device.type == "cpu" and run.world.size == 1
    return alone_on_cpu or run.state.batch % CHECK_EVERY == 0 or run.state.batch == run.state.num_batches


def finish_epoch(run: Run) -> Epoch:
    """Validate, record the epoch, react to catastrophic overfitting, write the checkpoints, and move on to the next epoch."""
    run.check_finite()
    state = run.state
    if state.average:
        state.average.after_epoch(state.model, state.epoch + 1, run.config.epochs, lambda model: _forwards(run, model))
    started, due = time.perf_counter(), is_validated(run, state.epoch + 1)
    measured = run.validate(run.config.val_n) if due else dict.fromkeys(UNMEASURED)
    row = Epoch(
        epoch=state.epoch + 1,
        lr=state.optimizer.param_groups[-1]["lr"],  # the head's
        val_seconds=round(time.perf_counter() - started, 2) if due else None,
        growing=state.growing,
        **(state.meter.means(run.world) | measured),
    )
    state.history.append(row)
    if run.config.is_adversarial:
        row.below_best, row.robust_gap = shortfall(state.history)
    _track(run, row)
    collapsed = run.config.is_adversarial and len(state.history) - 1 in (catastrophes(state.history) or ())
    if not (collapsed and _went_back(run, row)):
        _begin_next(run, row)
    row.warning = _warn(run)
    if run.config.on_collapse == "rollback" and not row.event and due:
        save_last(run, "good.pt")  # before last.pt: a run killed between the two writes repeats this epoch when resumed
    save_last(run)
    return row


def is_validated(run: Run, epoch: int) -> bool:
    """Whether this epoch (counted from 1) is validated.

    An epoch without validation cannot become the best epoch, is not checked for catastrophic overfitting, and has None for its
    clean and robust accuracies.
    """
    return epoch % (run.config.val_every or 1) == 0 or epoch == run.config.epochs


def _begin_next(run: Run, row: Epoch) -> None:
    state = run.state
    state.epoch, state.batch = row.epoch, 0
    state.meter.reset()
    if not is_validated(run, row.epoch):
        return
    score = (row.val_robust or 0.0, row.val_clean or 0.0)  # with `val_attack="none"` only clean accuracy counts
    score = score if run.config.is_adversarial else score[::-1]
    if score > state.best_score:
        state.best_score, state.best_epoch = score, row.epoch
        save_best(run)
    if 0 < run.config.patience <= row.epoch - state.best_epoch and not state.stopped:
        since = row.epoch - state.best_epoch
        state.stopped = f"no better epoch than {state.best_epoch} for {since} epoch{'s' if since > 1 else ''}"
        row.event = "; ".join(filter(None, (row.event, state.stopped)))


def _went_back(run: Run, row: Epoch) -> bool:
    """Apply `on_collapse` after catastrophic overfitting. Return whether the run was rolled back to the last good epoch."""
    state = run.state
    row.event = (
        f"catastrophic overfitting in epoch {row.epoch}: "
        f"robust {row.val_robust or 0:.1%}, single-step {row.val_fgsm or 0:.1%}"
    )
    if run.config.on_collapse == "stop":
        state.stopped = row.event
    if run.config.on_collapse != "rollback" or not (run.folder / "good.pt").exists():
        return False
    if state.rollbacks == MOST_ROLLBACKS:
        state.stopped = f"{row.event}, after {MOST_ROLLBACKS} rollbacks"
        return False
    history, rollbacks = state.history, state.rollbacks + 1
    restore_state(run, read_last(run.folder, "good.pt")[1])
    run.track_from_here()
    reduced = "the attack's step" if state.halves_attack else "the learning rate"
    row.event += f"; back to epoch {state.epoch}, {reduced} cut to 1/{2**rollbacks}"
    state.history, state.rollbacks = history, rollbacks
    return True


def _warn(run: Run) -> str:
    """Return the warnings about learning that the epoch just finished gives rise to, "" for none.

    Each warning is given once, except the one about accuracy at chance level, which may come half-way and at the end.
    """
    history, row, epochs = run.state.history, run.state.history[-1], run.config.epochs
    rise = risen_loss(run.state.settled_epochs)
    grew = sum(one.growing for one in history)  # epochs; those after them are counted
    half, over = row.epoch == (grew + epochs + 1) // 2 and not row.growing, row.epoch == epochs or run.state.stopped
    warnings = [
        few_updates(run.state.num_batches, epochs) if len(history) == 1 else "",
        rise if rise == first_rise(run.state.settled_epochs) else "",
        at_chance(history, run.chance, adversarial=run.config.is_adversarial) if half or over else "",
    ]
    return "; ".join(filter(None, warnings))


def _forwards(run: Run, model: Classifier) -> Iterator[Loss]:
    """Yield the objective of an averaged model, in train mode, on SWA_FORWARDS batches with their own random draws.

    The attack runs on the model in training, because the averaged model has no BatchNorm statistics yet and therefore cannot
    be used in eval mode.
    """
    state = run.state

    def attack(_: object, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        return x if state.inner is None else state.attack(state.model, x, y, **options)

    for (x, y), _ in zip(run.batches(stream=1), range(SWA_FORWARDS), strict=False):
        with state.autocast():
            yield state.objective(model, x, y, attack)


def _track(run: Run, row: Epoch) -> None:
    assert run.tracking is not None
    if run.val_attack and run.tracking.wants_images(row.epoch):
        x, y = choose(run.val, 8).batch()
        generator = torch.Generator(run.device).manual_seed(run.config.seed)
        with uncompiled():
            x_adv = run.val_attack(run.state.twins[run.state.eval_model], x, y, run.threat, generator=generator)
        run.tracking.images(run.images_seen, x, x_adv)
    run.tracking.epoch(row, run.images_seen)


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag, so that no update is interrupted; a second signal raises KeyboardInterrupt.

    Only the main thread can set signal handlers. In any other thread, such as that of a notebook server, the existing handlers
    stay in place.
    """
    requests: list[int] = []

    def request(number: int, _frame: object) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield lambda: bool(requests)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
