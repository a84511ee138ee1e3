"""The time budget of a report: how many samples all its models meet, and what the attacks will take."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from robustcls.cli.console import note
from robustcls.cli.judging import Task
from robustcls.cli.subject import Subject
from robustcls.core.progress import duration
from robustcls.data.splits import SAMPLING_RULE, choose
from robustcls.evaluation.budget import (
    Budget,
    Pace,
    check_holds,
    fitting_samples,
    kept_counts,
    lowered,
    lowered_to_fewest,
    measure_pace,
    minutes_of,
)
from robustcls.evaluation.config import ReportConfig


@dataclass
class Plan:
    """What a subject's report may take, and is expected to."""

    subject: Subject
    pace: Pace
    attack_seconds: float  # of a sample that withstands all attacks
    minutes: float | None
    reduced: str = ""  # why it meets fewer samples than the profile says
    spent: float = 0.0  # seconds of the budget, that measuring the pace took

    def begin(self, given: Collection[str], quiet: bool) -> Budget:
        """The budget, which runs from now on; says what the attacks will take."""
        budget = make_budget(self.minutes, given, self.spent)
        count = len(self.subject.images)
        budget.after = min(self.pace.of_checks(count), budget.left() / 2)
        text = f"attacks: {count} samples, at most about {duration(count * self.attack_seconds)}"
        if self.minutes is not None:
            text += f", of {budget.text}"
        if budget.stops and count * self.attack_seconds > budget.left() - budget.after:
            text += ", at whose end they are stopped, and the evaluation says so"
        note("; ".join(filter(None, (text, self.reduced))), quiet)
        return budget


def make_budget(minutes: float | None, given: Collection[str], spent: float = 0.0) -> Budget:
    """One that begins now. A count of samples that was given, to a profile's budget, is attacked to the end."""
    return Budget(minutes, kept_counts(given), spent=spent, stops="minutes" in given or "n" not in given)


def make_plans(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    methods_of: Sequence[Sequence[str]],
    config: ReportConfig,
    given: Collection[str],
) -> list[Plan]:
    """A plan for each subject. Where a budget asks for fewer samples, all subjects keep the same, to be compared.

    given: options that the user named, whose counts win over the profile's budget. Raises InputError where a budget does
    not hold even the first step of each attack.
    """
    plans, counts = [], []
    for subject, task, methods in zip(subjects, tasks, methods_of, strict=True):
        x, _ = subject.images.batch(slice(32))
        began, minutes = time.perf_counter(), minutes_of(config, x.shape[2:])
        pace = measure_pace(subject.loaded.model, x, methods, corruptions=bool(config.corruptions_n))
        budget = make_budget(minutes, given, time.perf_counter() - began)
        have, curve = len(subject.images), bool(task.eps_grid)
        counts.append(fitting_samples(budget, pace, config, task.attacks, have, curve=curve)[0])
        each = pace.of_attacks(task.attacks, curve=curve, checks=config.checks == "all")
        check_holds(budget, pace, task.attacks, counts[-1], each, subject.model.name)
        plans.append(Plan(subject, pace, each, minutes, spent=budget.spent))
        if counts[-1] < have:
            words = lowered if counts[-1] * each <= budget.left() else lowered_to_fewest
            plans[-1].reduced = words(have, counts[-1], budget)
    fewest = min(counts)
    reason = next(plan.reduced for plan, count in zip(plans, counts, strict=True) if count == fewest)
    return [
        replace(plan, subject=_with_fewer(plan.subject, fewest), reduced=reason)
        if fewest < len(plan.subject.images)
        else plan
        for plan in plans
    ]


def _with_fewer(subject: Subject, count: int) -> Subject:
    images = choose(subject.images, count)
    data = replace(subject.data, n=len(images), sha256=images.sha256(), sampling=SAMPLING_RULE)
    return replace(subject, images=images, data=data)
