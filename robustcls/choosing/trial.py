"""Train a candidate for its share of the time, and measure its accuracy on the validation images."""

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

LEAST_UPDATES = 20  # minimum number of updates of a trial
TIMED_SECONDS = 2.0  # duration of the timed updates in a rehearsal


@dataclass
class Data:
    """Training and validation images of all candidates, read once per value of `limit_train`. Test images are never read."""

    config: TrainConfig  # of any candidate: all have the same data
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
    """A trial to run. seed: overrides that of the candidate, on the same images."""

    candidate: Candidate
    stage: str
    folder: str  # folder of the run, relative to the folder of the choice
    epochs: int
    seconds: float  # time for the trial
    seed: int | None = None


def measure(candidate: Candidate, data: Data) -> Contender:
    """Measure the costs of a candidate by a few updates, which are discarded. Raises InputError if it cannot be trained."""
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
            save_last(run)  # as at the start of a run, including the digest of its images
            setup = time.perf_counter() - began
            began = time.perf_counter()
            save_last(run)
            save_best(run)
            saving = time.perf_counter() - began
            cost = measure_cost(run, TIMED_SECONDS)
            run.config.val_every = candidate.config.val_every  # the rehearsal set it for another number of epochs
            return Contender(
                candidate.name, _options_of(run.config), cost.parameters, cost.forward_flops / 1e6, run.images_per_batch,
                run.state.num_batches, setup, cost.epoch_seconds + saving, cost.val_seconds,
            )  # fmt: skip


def seconds_needed(contender: Contender, epochs: int) -> float:
    """Return the seconds of a trial: preparation, epochs and the final validation."""
    return contender.setup_seconds + contender.val_seconds + epochs * contender.epoch_seconds


def least_epochs(contender: Contender) -> int:
    """Return the minimum number of epochs of a trial, see LEAST_UPDATES."""
    return math.ceil(LEAST_UPDATES / contender.updates_per_epoch)


def epochs_that_fit(contender: Contender, seconds: float, before: Trial | None = None) -> int:
    """Return the number of epochs that fit into this time, at least one.

    before: an earlier trial of the same candidate, whose measured speed is more reliable than that of the rehearsal.
    """
    around, pace = contender.setup_seconds + contender.val_seconds, contender.epoch_seconds
    if before and before.epochs:
        around, pace = before.around_seconds, (before.seconds - before.around_seconds) / before.epochs
    return max(1, int((seconds - around) / pace))


def run_trial(
    task: Task, out: Path, data: Data, *, show: bool, on_batch: Callable[[Run], object] = lambda run: None
) -> Trial:
    """Run a trial or continue an interrupted one, and measure its accuracy. A run that diverges is a failed trial.

    Raises InputError if the candidate cannot be trained, and Interrupted, with the state saved, on Ctrl-C.
    """
    config, folder = copy.deepcopy(task.candidate.config), out / task.folder
    config.epochs, config.minutes, config.out = task.epochs, 0.0, str(folder)
    limit = config.limit_train
    how: dict[str, Any] = {"quiet": True}
    if task.seed is None:
        how["read"] = data.read(limit)
    else:  # pass images, because with a spec the seed would also change which images are held out
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
        epochs, updates = (
            run.state.epoch,
            run.state.epoch * run.state.num_batches,
        )  # without epochs that a rollback undid
        clean, robust = (Accuracy.of(digits.count("1"), len(digits)) for digits in right)
        return Trial(
            task.candidate.name, task.stage, task.folder, run.config.seed, len(run.train), epochs, updates,
            task.seconds, around + inside, around, clean, robust if run.val_attack else None, right[0],
            right[1] if run.val_attack else "", majority, stopped=run.state.stopped, failed=failed,
            planned_epochs=task.epochs,
        )  # fmt: skip


def _seconds_before(run: Run) -> float:
    """Return the seconds of updates and validation before a run was interrupted."""
    rows = sum(row.seconds + (row.val_seconds or 0.0) for row in run.state.history)
    return float(rows + run.state.meter.seconds)


def judge(run: Run, val: Images, *, seed: int) -> tuple[str, str]:
    """Return one digit per validation image for clean accuracy, and one for accuracy under the validation attack.

    A digit is 1 if ckpt.pt, in fp32, classifies the image correctly. Without a validation attack, the second text is "".
    """
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


def as_trained(candidate: Candidate, contender: Contender, **changes: Any) -> Candidate:
    """Return the candidate with the batch size and learning rate that were adapted to its images, and with changed options."""
    config = replace(candidate.config, batch_size=contender.batch_size, lr=contender.config["lr"], **changes)
    return Candidate(candidate.name, config, candidate.given | {"batch_size", "lr"})


def _options_of(config: TrainConfig) -> dict[str, Any]:
    """Return the training options, except those that the choice sets itself."""
    left_out: Mapping[str, object] = dict.fromkeys(("epochs", "minutes", "out", "quiet"))
    return {name: value for name, value in vars(config).items() if name not in left_out and value is not None}


def _digits(right: torch.Tensor) -> str:
    return "".join("1" if one else "0" for one in right.tolist())
