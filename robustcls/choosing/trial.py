"""Trains a candidate for its share of the time and judges it on the validation images."""

import copy
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustcls.attacks._run import run_attack
from robustcls.choosing.candidates import Candidate
from robustcls.choosing.record import Contender, Trial
from robustcls.core.errors import InputError
from robustcls.core.losses import predict_labels
from robustcls.data.images import Images
from robustcls.data.splits import choose, load_training_data
from robustcls.models.checkpoint import restore
from robustcls.models.weights import read_file
from robustcls.results.accuracy import Accuracy
from robustcls.runtime.predict import predict
from robustcls.training.checkpoint import save_best, save_last
from robustcls.training.config import TrainConfig
from robustcls.training.loop import fit
from robustcls.training.progress import RunBar
from robustcls.training.rehearsal import measure_cost
from robustcls.training.run import Run
from robustcls.training.train import begin
from robustcls.training.validation import Diverged

LEAST_UPDATES = 20  # of a trial: of fewer nothing can be said
TIMED_SECONDS = 2.0  # of updates, in the rehearsal of a candidate


@dataclass
class Data:
    """The training and validation images of all candidates, read once for each `limit_train`; never the test images."""

    config: TrainConfig  # of any of them: they agree in the data
    held: dict[int | None, tuple[Images, Images]] = field(default_factory=dict)

    def read(self, limit_train: int | None) -> tuple[Images, Images]:
        if limit_train not in self.held:
            self.held[limit_train] = load_training_data(
                self.config.data or "digits",
                seed=self.config.seed,
                limit_train=limit_train,
                data_dir=self.config.data_dir,
                skip_corrupt=self.config.skip_corrupt,
            )
        return self.held[limit_train]


@dataclass(frozen=True)
class Task:
    """A trial that is to be made. seed: in place of the candidate's, on the same images."""

    candidate: Candidate
    stage: str
    folder: str  # of its run, from the folder of the choice
    epochs: int
    seconds: float  # its share of the time
    seed: int | None = None


def measure(candidate: Candidate, data: Data) -> Contender:
    """What a candidate costs, by a few updates that are forgotten. Raises InputError for what cannot be trained."""
    try:
        return _measure(candidate, data)
    except InputError as error:
        raise InputError(f"candidate {candidate.name}: {error}") from None


def _measure(candidate: Candidate, data: Data) -> Contender:
    config = copy.deepcopy(candidate.config)
    read = data.read(config.limit_train)
    with tempfile.TemporaryDirectory(prefix="robustcls-choose-") as folder:
        config.out = str(Path(folder) / "run")
        began = time.perf_counter()
        with begin(config, given=candidate.given, quiet=True, dry_run=True, read=read) as run:
            save_last(run)  # as a run begins, with the hash of its images
            setup = time.perf_counter() - began
            began = time.perf_counter()
            save_last(run)
            save_best(run)
            saving = time.perf_counter() - began
            cost = measure_cost(run, TIMED_SECONDS)
            return Contender(
                candidate.name, _said(run.config), cost.parameters, cost.forward_flops / 1e6, run.images_per_batch,
                run.state.num_batches, setup, cost.epoch_seconds + saving, cost.val_seconds,
            )  # fmt: skip


def seconds_needed(found: Contender, epochs: int) -> float:
    """Of a trial of so many epochs: preparation, these, and the last validation."""
    return found.setup_seconds + found.val_seconds + epochs * found.epoch_seconds


def least_epochs(found: Contender) -> int:
    return math.ceil(LEAST_UPDATES / found.updates_per_epoch)


def epochs_that_fit(found: Contender, seconds: float, before: Trial | None = None) -> int:
    """At least one. before: a trial of the same candidate, whose measured pace is believed more than the rehearsal's."""
    around, pace = found.setup_seconds + found.val_seconds, found.epoch_seconds
    if before and before.epochs:
        around, pace = before.around_seconds, (before.seconds - before.around_seconds) / before.epochs
    return max(1, int((seconds - around) / pace))


def run_trial(
    task: Task, out: Path, data: Data, *, show: bool, on_batch: Callable[[Run], object] = lambda run: None
) -> Trial:
    """Trains, or goes on where a process was cut off, and judges. A run that diverges is a trial that failed.

    Raises InputError for what cannot be trained, and Interrupted with the state saved.
    """
    config, folder = copy.deepcopy(task.candidate.config), out / task.folder
    config.epochs, config.minutes, config.out = task.epochs, 0.0, str(folder)
    limit = config.limit_train
    how: dict[str, Any] = {"quiet": True}
    if task.seed is None:
        how["read"] = data.read(limit)
    else:  # as images: the seed of a spec would hold out others for validation
        config.seed, how["data"], how["source"] = task.seed, data.read(limit), data.config.data or "digits"
    began = time.perf_counter()
    goes_on = (folder / "last.pt").exists()
    how |= {"resume": folder} if goes_on else {"config": config, "given": task.candidate.given}
    with begin(**how) as run:
        around = time.perf_counter() - began
        val = choose(run.val, data.config.val_n)
        right, failed = ("0" * len(val), "0" * len(val)), ""
        inside, began = _seconds_before(run), time.perf_counter()
        try:
            with RunBar(run, show=show) as bar:

                def advance(run: Run) -> None:
                    bar.batch(run)
                    on_batch(run)

                fit(run, advance)
        except Diverged as error:
            failed = str(error)
        inside += time.perf_counter() - began
        if not failed:
            began = time.perf_counter()
            right = judge(run, val, seed=data.config.seed)
            around += time.perf_counter() - began
        majority = val.labels.bincount().max().item() / len(val)
        epochs, updates = run.state.epoch, run.state.epoch * run.state.num_batches  # without what a rollback undid
        clean, robust = (Accuracy.of(digits.count("1"), len(digits)) for digits in right)
        return Trial(
            task.candidate.name, task.stage, task.folder, run.config.seed, len(run.train), epochs, updates,
            task.seconds, around + inside, around, clean, robust if run.val_attack else None, right[0],
            right[1] if run.val_attack else "", majority, stopped=run.state.stopped, failed=failed,
            planned_epochs=task.epochs,
        )  # fmt: skip


def _seconds_before(run: Run) -> float:
    """Of updates and validation, of a run that goes on."""
    rows = sum(row.seconds + (row.val_seconds or 0.0) for row in run.state.history)
    return float(rows + run.state.meter.seconds)


def judge(run: Run, val: Images, *, seed: int) -> tuple[str, str]:
    """A digit per validation image: 1 where ckpt.pt, in fp32, classifies it correctly; and where it does so also under the
    validation attack."""
    path = run.folder / "ckpt.pt"
    model: nn.Module = restore(read_file(path), str(path), run.config.arch)[0].to(run.device).eval()
    x, y = val.batch()
    clean = predict_labels(predict(model, x, run.batch_size)) == y.cpu()
    if not run.val_attack:
        return _digits(clean), ""
    x_adv = run_attack(
        model, x, y, run.threat, run.config.val_attack,
        target=None, batch_size=run.batch_size, seed=seed, index=None, progress=False,
    )  # fmt: skip
    return _digits(clean), _digits(clean & (predict_labels(predict(model, x_adv, run.batch_size)) == y.cpu()))


def as_trained(candidate: Candidate, found: Contender, **changes: Any) -> Candidate:
    """The candidate with the batch size and the rate that were fitted to its images, and other options where given."""
    config = replace(candidate.config, batch_size=found.batch_size, lr=found.config["lr"], **changes)
    return Candidate(candidate.name, config, candidate.given | {"batch_size", "lr"})


def _said(config: TrainConfig) -> dict[str, Any]:
    """The options of training, but for those of the choice itself."""
    left_out: Mapping[str, object] = dict.fromkeys(("epochs", "minutes", "out", "quiet"))
    return {name: value for name, value in vars(config).items() if name not in left_out and value is not None}


def _digits(right: torch.Tensor) -> str:
    return "".join("1" if one else "0" for one in right.tolist())
