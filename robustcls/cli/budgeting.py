"""The time budget of a report: how many samples all its models meet, and what the attacks will take."""

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
    fitting_samples,
    kept_counts,
    lowered,
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

    def begin(self, given: Collection[str], quiet: bool) -> Budget:
        """The budget, which runs from now on; says what the attacks will take."""
        budget = Budget(self.minutes, kept_counts(given))
        count = len(self.subject.images)
        text = f"attacks: {count} samples, at most about {duration(count * self.attack_seconds)}"
        if self.minutes is not None:
            text += f", of {budget.text}"
        note("; ".join(filter(None, (text, self.reduced))), quiet)
        return budget


def make_plans(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    carried: Sequence[Sequence[str]],
    config: ReportConfig,
    given: Collection[str],
) -> list[Plan]:
    """A plan for each subject. Where a budget asks for fewer samples, all subjects keep the same, to be compared.

    given: options that the user named, whose counts win over the profile's budget.
    """
    plans, counts = [], []
    for subject, task, methods in zip(subjects, tasks, carried, strict=True):
        x, _ = subject.images.batch(slice(32))
        pace = measure_pace(subject.loaded.model, x, methods, corruptions=bool(config.corruptions_n))
        budget = Budget(minutes_of(config, x.shape[2:]), kept_counts(given))
        have, curve = len(subject.images), bool(task.eps_grid)
        counts.append(fitting_samples(budget, pace, config, task.attacks, have, curve=curve)[0])
        each = pace.of_attacks(task.attacks, curve=curve, checks=config.checks == "all")
        plans.append(Plan(subject, pace, each, budget.minutes))
        if counts[-1] < have:
            plans[-1].reduced = lowered(have, counts[-1], budget)
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
