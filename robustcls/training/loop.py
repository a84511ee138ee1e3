"""The training loop: epochs of batches; after each, the model is validated, watched, saved, and sent on its way or back."""

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

CHECK_EVERY = 16  # batches: to look at a flag on the device, or in other processes, waits for them
MOST_ROLLBACKS = 5
UNMEASURED = ("train_clean", "val_clean", "val_robust", "val_fgsm")
SWA_FORWARDS = 50  # batches that estimate BatchNorm's statistics of averaged weights


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM came; the state was saved between two batches."""


def fit(
    run: Run,
    on_batch: Callable[[Run], object] = lambda run: None,
    on_epoch: Callable[[Epoch], object] = lambda row: None,
) -> None:
    """Trains to the end, validating, selecting and saving after each epoch. Raises Interrupted, with the state saved."""
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
    """Whether the loop may wait: on the CPU in one process nothing has to be waited for."""
    alone_on_cpu = run.device.type == "cpu" and run.world.size == 1
    return alone_on_cpu or run.state.batch % CHECK_EVERY == 0 or run.state.batch == run.state.num_batches


def finish_epoch(run: Run) -> Epoch:
    """Validates, selects, watches, writes history and checkpoints, and moves on to the next epoch."""
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
        **state.meter.means(run.world),
        **measured,
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
        save_last(run, "good.pt")  # first: a run that is killed in between comes here again
    save_last(run)
    return row


def is_validated(run: Run, epoch: int) -> bool:
    """Whether this epoch, from 1 on, is validated; the others are neither selected nor watched, and their clean and robust
    accuracies are None."""
    return epoch % (run.config.val_every or 1) == 0 or epoch == run.config.epochs


def _begin_next(run: Run, row: Epoch) -> None:
    state = run.state
    state.epoch, state.batch = row.epoch, 0
    state.meter.reset()
    if not is_validated(run, row.epoch):
        return
    score = (row.val_robust or 0.0, row.val_clean or 0.0)  # by clean accuracy alone with `val_attack="none"`
    score = score if run.config.is_adversarial else score[::-1]
    if score > state.best_score:
        state.best_score, state.best_epoch = score, row.epoch
        save_best(run)
    if 0 < run.config.patience <= row.epoch - state.best_epoch and not state.stopped:
        state.stopped = f"no better epoch than {state.best_epoch} for {run.config.patience} epochs"
        row.event = "; ".join(filter(None, (row.event, state.stopped)))


def _went_back(run: Run, row: Epoch) -> bool:
    """Does what was asked for on catastrophic overfitting. Whether the run is back at the last good epoch."""
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
    what = "the attack's step" if state.halves_attack else "the learning rate"
    row.event += f"; back to epoch {state.epoch}, {what} cut to 1/{2**rollbacks}"
    state.history, state.rollbacks = history, rollbacks
    return True


def _warn(run: Run) -> str:
    """What the epoch that has just ended tells of how the model learns; each thing is said once, chance half-way too."""
    history, row, epochs = run.state.history, run.state.history[-1], run.config.epochs
    rise = risen_loss(history)
    half, over = row.epoch == (epochs + 1) // 2, row.epoch == epochs or run.state.stopped
    said = [
        few_updates(run.state.num_batches, epochs) if len(history) == 1 else "",
        rise if rise == first_rise(history) else "",
        at_chance(history, run.chance, adversarial=run.config.is_adversarial) if half or over else "",
    ]
    return "; ".join(filter(None, said))


def _forwards(run: Run, model: Classifier) -> Iterator[Loss]:
    """The objective on an averaged model, on batches of other draws than training's.

    The live model is attacked: the average has no statistics of BatchNorm yet with which it could be in eval mode.
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
    """Turns Ctrl-C and SIGTERM into a flag, so that no update is cut in half; a second one stops at once.

    Only the main thread can; in another, as of a notebook's server, signals are left to whoever has them.
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
