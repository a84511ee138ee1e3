"""The trials of a choice, which several processes may share."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from robustcls.choosing.candidates import Candidate
from robustcls.choosing.config import ChooseConfig
from robustcls.choosing.halving import Budget, rung_sizes
from robustcls.choosing.record import Contender, Plan, Trial
from robustcls.choosing.shared import make_all
from robustcls.choosing.trial import (
    LEAST_UPDATES,
    Data,
    Task,
    as_trained,
    epochs_that_fit,
    least_epochs,
    measure,
    run_trial,
    seconds_needed,
)
from robustcls.core.errors import InputError
from robustcls.core.progress import duration, follow
from robustcls.training.run import Run

PARTS = (0.25, 0.5)  # shares of the training images in the learning curve
Say = Callable[[str], object]


class Work:
    """The trials of a choice, shared with other processes that work in the same folder."""

    def __init__(
        self,
        options: ChooseConfig,
        candidates: Sequence[Candidate],
        where: Path,
        say: Say,
        on_batch: Callable[[Run], object],
    ) -> None:
        self.options, self.where, self.say, self.on_batch = options, where, say, on_batch
        self.candidates = {one.name: one for one in candidates}
        self.data = Data(candidates[0].config)
        self.contenders: dict[str, Contender] = {}
        self.warm = False

    def plan(self, budget: Budget) -> Plan:
        """Return the costs of each candidate. Raises InputError if the time is too short or the folder has another choice."""
        asked = {
            "candidates": [[name, *_as_asked(one)] for name, one in self.candidates.items()],
            "minutes": self.options.minutes,
            "seed_noise": self.options.seed_noise,
            "learning_curve": self.options.learning_curve,
        }

        def make(_: str) -> Plan:
            candidates = list(self.candidates.values())
            # The first candidate is rehearsed twice, so that one-time work of PyTorch is not counted as its time.
            each = follow([candidates[0], *candidates], "rehearsing", "candidate", show=not self.options.quiet)
            contenders, self.warm = [measure(one, self.data) for one in each][1:], True
            _check_time(self.options, contenders, budget)
            return Plan(asked, contenders)

        plan = make_all({"plan": self.where / "plan.json"}, Plan, make)["plan"]
        if plan.asked != json.loads(json.dumps(asked)):
            raise InputError(
                f"{self.where} holds a choice among other candidates, or with other options: give these, or name another `out`"
            )
        self.contenders = {one.name: one for one in plan.candidates}
        return plan

    def rung(self, number: int, names: Sequence[str], seconds: float, before: Sequence[Trial]) -> list[Trial]:
        earlier = {trial.name: trial for trial in before}
        self.say(f"rung {number}: {len(names)} candidates, {duration(seconds)} each")
        return self.trials(
            Task(
                self.candidates[name],
                f"rung {number}",
                f"runs/rung{number}/{self._place(name)}",
                epochs_that_fit(self.contenders[name], seconds, earlier.get(name)),
                seconds,
            )
            for name in names
        )

    def seeds(self, best: Trial, seconds: float) -> list[Trial]:
        """Return the winner's trial, and trials of the same recipe and number of epochs with the next seeds."""
        if not self.options.seed_noise:
            return []
        again = as_trained(self.candidates[best.name], self.contenders[best.name])
        self.say(f"{best.name} with {self.options.seed_noise} other seeds")
        tasks = [
            Task(again, f"seed {seed}", f"runs/seed{seed}", best.scheduled_epochs, seconds, seed)
            for seed in range(best.seed + 1, best.seed + 1 + self.options.seed_noise)
        ]
        return [best, *self.trials(tasks)]

    def curve(self, best: Trial, seconds: float) -> list[Trial]:
        """Return trials of the winner on parts of its images, with the same number of updates, and its own trial.

        With fewer images there are more epochs. Validation during training uses the same part of the validation images, so that
        its total cost stays the same. The final accuracies are measured on all validation images.
        """
        if not self.options.learning_curve:
            return []
        contender, tasks = self.contenders[best.name], []
        updates = best.scheduled_epochs * contender.updates_per_epoch
        self.say(f"{best.name} on {' and '.join(f'{part:.0%}' for part in PARTS)} of its {best.images} images")
        for part in PARTS:
            limit = round(part * best.images)
            epochs = max(1, round(updates / max(1, limit // contender.batch_size)))
            val_n = max(1, round(part * self.data.config.val_n))
            candidate = as_trained(self.candidates[best.name], contender, limit_train=limit, val_n=val_n)
            tasks.append(Task(candidate, f"{part:.0%} of the images", f"runs/images{part:.0%}"[:-1], epochs, seconds))
        return [*self.trials(tasks), best]

    def trials(self, tasks: Iterable[Task]) -> list[Trial]:
        named = {task.folder: task for task in tasks}

        def make(folder: str) -> Trial:
            task = named[folder]
            if not self.warm:  # a process that continues or shares the work has not rehearsed
                self.say("warming up")
                measure(task.candidate, self.data)
                self.warm = True
            self.say(f"{task.stage}: {task.candidate.name}, {task.epochs} epoch{'s'[: task.epochs > 1]}")
            return run_trial(task, self.where, self.data, show=not self.options.quiet, on_batch=self.on_batch)

        def waiting(folder: str) -> None:
            self.say(f"{named[folder].stage}: another process trains {named[folder].candidate.name}")

        return list(make_all({name: self.where / f"{name}.json" for name in named}, Trial, make, waiting).values())

    def _place(self, name: str) -> str:
        """Return a folder name for a candidate, with a number, since different names may become the same."""
        letters = "".join(letter if letter.isalnum() or letter in "._=-" else "_" for letter in name)[:60].strip("_")
        return f"{list(self.candidates).index(name) + 1}-{letters}"


def _check_time(options: ChooseConfig, contenders: Sequence[Contender], budget: Budget) -> None:
    """Raise InputError if the time of the first rung is too short for a candidate."""
    share = budget.rungs[0]
    needed, slowest = max((seconds_needed(one, least_epochs(one)), one.name) for one in contenders)
    if needed > share:
        enough = options.minutes * needed / share
        rungs = len(rung_sizes(len(contenders)))
        where = f"the first of {rungs} rungs" if rungs > 1 else "the only rung"
        raise InputError(
            f"`minutes={options.minutes:g}` leaves {share:.3g} s to each of {len(contenders)} candidates in {where}, and "
            f"{slowest} needs {needed:.3g} s for an epoch and {LEAST_UPDATES} "
            f"updates or more: give `minutes={enough * 1.05 + 0.05:.1f}`, fewer candidates or a smaller `limit_train`"
        )


def _as_asked(candidate: Candidate) -> tuple[dict[str, Any], list[str]]:
    return {name: value for name, value in asdict(candidate.config).items() if value is not None}, sorted(
        candidate.given
    )
