"""What a plan measures beside the attacks: one measure after another, each left out with its reason.

`NAME/measure.py` in the folder measures defines what runs:

    measure(subject, evaluation, *, ...) -> RECORD     raises InputError where the model or the data do not allow it
    seconds(pace) -> float                             what a sample takes
    available(subject, evaluation, *, ...) -> int      how many samples it can take at most; all of the subject's by default
    check(subject, *, ...)                             raises InputError before the attacks, for what will not do
    from_attacks(evaluation) -> RECORD                 what the attacks already say of it, kept where it is not run
    time_more(x, timed) -> float                       seconds that become `pace.more[NAME]`, where passes are not all

The last four may be left out. `...` are those of `n`, `attacks`, `methods`, `batch_size`, `seed`, `progress`, `say` and its
own options that the function names.
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

ANY_CLASS = ("artefact", "minimum", "other_curves")  # measures of whatever other class the model gives
AIMED = "the attacks aim at a class, and this part is about any wrong one: evaluate without a target"
CUT_OFF = "the evaluation was cut off before this part was measured"


@dataclass
class Task:
    """A measure on so many samples."""

    measure: Measure
    count: int
    options: dict[str, Any]  # all that its functions may take

    def each(self, pace: Pace) -> float:
        """Seconds a sample."""
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
    """Adds the measures of a plan to an evaluation, in place, and returns it.

    Args:
        budget: the time that the measures may take: each on as many samples as it holds, or left out; no limit by default.
        pace: of the model; measured here where it is needed and not given.
        say: told what comes next, and what it will take.
        done: called before the first measure and after each, since what follows may take long, or fail.
    """
    budget = budget or Budget()
    ahead = _tasks(subject, plan, evaluation, batch_size, progress, say)
    done(evaluation)  # hours of attacks may lie behind
    if pace is None:
        told = len(ahead) > 1 and (budget.minutes is not None or progress)
        pace = (
            measure_pace(subject.model, subject.x, plan.methods, measures=[one.measure for one in ahead])
            if told
            else Pace(0.0, 0.0)
        )
    while ahead:
        began = time.perf_counter()
        _take(ahead.pop(0), ahead, subject, evaluation, budget, pace, say)
        seconds = evaluation.provenance.seconds + time.perf_counter() - began
        evaluation.provenance.seconds = round(seconds, 3)
        done(evaluation)
    return evaluation


def _tasks(
    subject: Subject, plan: Plan, evaluation: Evaluation, batch_size: int, progress: bool, say: Callable[[str], None]
) -> list[Task]:
    """What is to be measured; of the rest, the evaluation says why not."""
    tasks = []
    for measure in measures():
        if measure.name not in (plan.measures or {}):
            continue
        own, home = (plan.measures or {})[measure.name], measure.load()
        other_question = subject.aim is not None and measure.name in ANY_CLASS
        if hasattr(home, "from_attacks") and not other_question:
            setattr(evaluation, measure.name, home.from_attacks(evaluation) or None)
        count = measure.count_in(own)
        if count == 0:
            continue  # as the plan says
        options = {
            "attacks": plan.attacks, "methods": plan.methods, "batch_size": batch_size, "seed": plan.seed,
            "progress": progress, "say": say, **own,
        }  # fmt: skip
        evaluation.not_run[measure.key] = CUT_OFF
        try:
            most = (
                call(home.available, subject, evaluation, **options) if hasattr(home, "available") else len(subject.y)
            )
        except InputError as error:
            evaluation.not_run[measure.key] = str(error)
        else:
            if other_question:
                evaluation.not_run[measure.key] = AIMED
                continue
            tasks.append(Task(measure, most if count is None else min(count, most), options))
    return tasks


def _take(
    task: Task,
    ahead: Sequence[Task],
    subject: Subject,
    evaluation: Evaluation,
    budget: Budget,
    pace: Pace,
    say: Callable[[str], None],
) -> None:
    """Measures on as many samples as the budget holds, or leaves it out with its reason."""
    measure, count, each = task.measure, task.count, task.each(pace)
    if measure.count:  # what takes all samples takes next to nothing
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
