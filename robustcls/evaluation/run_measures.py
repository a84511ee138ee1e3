"""Run the measures of a plan, one after another; a measure that cannot run is left out, with the reason recorded.

`NAME/measure.py` in the folder `measures` defines a measure by these functions:

    measure(subject, evaluation, *, ...) -> RECORD     runs it; raises InputError if the model or data do not allow it
    seconds(pace) -> float                             estimated seconds per sample
    available(subject, evaluation, *, ...) -> int      the largest possible number of samples; by default all of the subject
    check(subject, *, ...)                             raises InputError for unsuitable options, before the attacks run
    from_attacks(evaluation) -> RECORD                 what the attacks already tell; recorded if the measure does not run
    time_more(x, timed) -> float                       seconds stored as `pace.more[NAME]`, for work besides passes

The last four are optional. `...` stands for those of `n`, `attacks`, `methods`, `batch_size`, `seed`, `progress`, `say` and the
measure's own options that the function takes.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robustcls.core.errors import InputError
from robustcls.core.measures import Measure, measures
from robustcls.core.progress import duration
from robustcls.core.traits import call
from robustcls.evaluation.budget import Budget, lowered, too_long
from robustcls.evaluation.pace import Pace, measure_pace
from robustcls.evaluation.plan import Plan
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Evaluation

ANY_CLASS = (
    "artefact",
    "minimum",
    "other_curves",
)  # measures for which any wrong class counts: not for targeted attacks
AIMED = "the attacks aim at a class, and this part is about any wrong one: evaluate without a target"
CUT_OFF = "the evaluation was cut off before this part was measured"


@dataclass
class Task:
    """A measure to run, and on how many samples."""

    measure: Measure
    count: int
    options: dict[str, Any]  # every option that its functions may take

    def each(self, pace: Pace) -> float:
        """Return the estimated seconds per sample."""
        return self.measure.load().seconds(pace)


def run_measures(
    subject: Subject,
    plan: Plan,
    evaluation: Evaluation,
    batch_size: int,
    *,
    budget: Budget | None = None,
    pace: Pace | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda text: None,
    done: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Evaluation:
    """Add the measures of a plan to an evaluation, in place, and return it.

    Args:
        budget: the time limit: each measure runs on as many samples as fit, or is left out; by default there is no limit.
        pace: measured speed of the model; measured here if needed and not given.
        say: called with a line on what comes next and how long it will take.
        done: called before the first measure and after each, because later ones may take long or fail.
    """
    budget = budget or Budget()
    ahead = _tasks(subject, plan, evaluation, batch_size, progress, say)
    done(evaluation)  # saves the attacks, which may have taken hours
    if pace is None:
        needed = len(ahead) > 1 and (budget.minutes is not None or progress)
        pace = (
            measure_pace(subject.model, subject.x, plan.methods, measures=[one.measure for one in ahead])
            if needed
            else Pace(0.0, 0.0)
        )
    while ahead:
        began = time.perf_counter()
        _run(ahead.pop(0), ahead, subject, evaluation, budget, pace, say)
        seconds = evaluation.provenance.seconds + time.perf_counter() - began
        evaluation.provenance.seconds = round(seconds, 3)
        done(evaluation)
    return evaluation


def _tasks(
    subject: Subject, plan: Plan, evaluation: Evaluation, batch_size: int, progress: bool, say: Callable[[str], None]
) -> list[Task]:
    """Return the measures to run; for the others, the reason is recorded in the evaluation."""
    tasks = []
    for measure in measures():
        if measure.name not in (plan.measures or {}):
            continue
        own, module = (plan.measures or {})[measure.name], measure.load()
        other_question = subject.aim is not None and measure.name in ANY_CLASS
        if hasattr(module, "from_attacks") and not other_question:
            setattr(evaluation, measure.name, module.from_attacks(evaluation) or None)
        count = measure.count_in(own)
        if count == 0:
            continue  # the plan records the reason
        options = {
            "attacks": plan.attacks, "methods": plan.methods, "batch_size": batch_size, "seed": plan.seed,
            "progress": progress, "say": say, **own,
        }  # fmt: skip
        evaluation.not_run[measure.key] = CUT_OFF
        try:
            most = (
                call(module.available, subject, evaluation, **options)
                if hasattr(module, "available")
                else len(subject.y)
            )
        except InputError as error:
            evaluation.not_run[measure.key] = str(error)
        else:
            if other_question:
                evaluation.not_run[measure.key] = AIMED
                continue
            tasks.append(Task(measure, most if count is None else min(count, most), options))
    return tasks


def _run(
    task: Task,
    ahead: Sequence[Task],
    subject: Subject,
    evaluation: Evaluation,
    budget: Budget,
    pace: Pace,
    say: Callable[[str], None],
) -> None:
    """Run a measure on as many samples as fit the budget, or leave it out and record the reason."""
    measure, count, each = task.measure, task.count, task.each(pace)
    if measure.count:  # measures without a count run on all samples, and take next to no time
        count = budget.fitting(measure.count, count, each, [later.count * later.each(pace) for later in ahead])
    if count < min(measure.fewest, task.count):
        evaluation.not_run[measure.key] = too_long(task.count * each, budget)
        say(f"{measure.text}: {evaluation.not_run[measure.key]}")
        return
    if count < task.count:
        evaluation.reduced[measure.key] = lowered(task.count, count, budget)
    text = f"{measure.text}: {count} samples" + (f", about {duration(count * each)}" if each else "")
    say("; ".join(filter(None, (text, evaluation.reduced.get(measure.key)))))
    try:
        record = call(measure.load().measure, subject, evaluation, n=count, **task.options)
    except InputError as error:
        evaluation.not_run[measure.key] = str(error)
        say(f"left out: {error}")
        return
    setattr(evaluation, measure.name, record)
    del evaluation.not_run[measure.key]
