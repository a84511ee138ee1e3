"""What happens between epochs: a run is judged, watched, saved, and sent on its way or back."""

import time
from collections.abc import Iterator

import torch

from robustcls.core.classifier import Classifier
from robustcls.core.objective import BoundAttack, Loss
from robustcls.data.splits import choose
from robustcls.results.learning import at_chance, few_updates, first_rise, risen_loss
from robustcls.results.overfitting import catastrophes
from robustcls.results.records import Epoch
from robustcls.runtime.fused import uncompiled
from robustcls.training.averaging import Swa
from robustcls.training.checkpoint import as_it_was, read_last, restore_state, save_best, save_last
from robustcls.training.run import Run

MOST_ROLLBACKS = 5
SWA_FORWARDS = 50  # batches that estimate BatchNorm's statistics of averaged weights


def finish_epoch(run: Run) -> Epoch:
    """Validates, selects, watches, writes history and checkpoints, and moves on to the next epoch."""
    run.check_finite()
    if isinstance(run.average, Swa) and run.epoch + 1 > run.config.swa * run.config.epochs:
        run.average.update(run.model, _forwards(run, run.average.model))
    started = time.perf_counter()
    measured = run.validate(run.config.val_n)
    row = Epoch(
        epoch=run.epoch + 1,
        lr=run.optimizer.param_groups[-1]["lr"],  # the head's
        val_seconds=round(time.perf_counter() - started, 2),
        **run.meter.means(run.world),
        **measured,
    )
    run.history.append(row)
    _track(run, row)
    collapsed = run.config.is_adversarial and len(run.history) - 1 in (catastrophes(run.history) or ())
    went_back = collapsed and _meet_collapse(run, row)
    if not went_back:
        _begin_next(run, row)
    row.warning = _warn(run)
    if run.config.on_collapse == "rollback" and not row.event:
        save_last(run, "good.pt")  # first: a run that is killed in between comes here again
    save_last(run)
    return row


def _begin_next(run: Run, row: Epoch) -> None:
    run.epoch, run.batch = row.epoch, 0
    run.meter.reset()
    score = (row.val_robust or 0.0, row.val_clean or 0.0)  # by clean accuracy alone with --val-attack none
    score = score if run.config.is_adversarial else score[::-1]
    if score > run.best_score:
        run.best_score, run.best_epoch = score, row.epoch
        save_best(run)
    if 0 < run.config.patience <= row.epoch - run.best_epoch and not run.stopped:
        run.stopped = f"no better epoch than {run.best_epoch} for {run.config.patience} epochs"
        row.event = "; ".join(filter(None, (row.event, run.stopped)))


def _meet_collapse(run: Run, row: Epoch) -> bool:
    """Does what was asked for on a collapse. Whether it went back to the last good epoch."""
    row.event = (
        f"catastrophic overfitting in epoch {row.epoch}: "
        f"robust {row.val_robust or 0:.1%}, single-step {row.val_fgsm or 0:.1%}"
    )
    if run.config.on_collapse == "stop":
        run.stopped = row.event
    elif run.config.on_collapse == "rollback" and (run.folder / "good.pt").exists():
        if run.rollbacks == MOST_ROLLBACKS:
            run.stopped = f"{row.event}, after {MOST_ROLLBACKS} rollbacks"
            return False
        history, rollbacks = run.history, run.rollbacks + 1
        restore_state(run, read_last(run.folder, "good.pt")[1])
        what = "the attack's step" if run.halves_attack else "the learning rate"
        row.event += f"; back to epoch {run.epoch}, {what} cut to 1/{2**rollbacks}"
        run.history, run.rollbacks = history, rollbacks
        return True
    return False


def _warn(run: Run) -> str:
    """What the epoch that has just ended tells of how the model learns; each thing is said once, chance half-way too."""
    count, row = len(run.history), run.history[-1]
    rise = risen_loss(run.history)
    half, over = row.epoch == (run.config.epochs + 1) // 2, row.epoch == run.config.epochs or run.stopped
    said = [
        few_updates(run.num_batches, run.config.epochs) if count == 1 else "",
        rise if rise == first_rise(run.history) else "",
        at_chance(run.history, run.chance, adversarial=run.config.is_adversarial) if half or over else "",
    ]
    return "; ".join(filter(None, said))


def _forwards(run: Run, model: Classifier) -> Iterator[Loss]:
    """The objective on the averaged model, on batches of other draws than training's, attacked through the live one."""
    attack: BoundAttack = (lambda _model, x, *_, **__: x) if run.inner is None else run.attack
    for (x, y), _ in zip(run.batches(stream=1), range(SWA_FORWARDS), strict=False):
        with run.autocast():
            yield run.objective(model, x, y, attack)


def _track(run: Run, row: Epoch) -> None:
    assert run.tracking is not None
    if run.val_attack and run.tracking.wants_images(row.epoch):
        x, y = choose(run.val, 8).batch()
        generator = torch.Generator(run.device).manual_seed(run.config.seed)
        with uncompiled():
            x_adv = run.val_attack(run.judged_twin, x, y, run.threat, generator=generator)
        run.tracking.images(run.images_seen, x, x_adv)
    run.tracking.epoch(row, run.images_seen)


def rehearse(run: Run) -> None:
    """Takes a step, attacks and validates on a few images, and forgets it: what would stop the run is said first."""
    x, y = choose(run.train, 2 * run.config.accumulate).batch()
    with as_it_was(run), uncompiled():
        run.epoch, run.batch = run.config.epochs - 1, run.num_batches - 1  # past whatever has a warm-up
        run.draw_anew(run.config.seed)
        run.set_lr()
        run.begin_epoch()
        run.step(run, *run.augment(x, y, run.generator))
    run.validate(2)
