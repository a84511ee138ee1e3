"""Fit a report into a time limit: how many samples it measures, and what it leaves out."""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from robustcls.core.errors import InputError
from robustcls.core.measures import FEWEST, measures
from robustcls.core.progress import duration
from robustcls.core.subset import first_proportional
from robustcls.data.images import Images
from robustcls.data.splits import SAMPLING_RULE
from robustcls.evaluation.attacks import NamedAttack
from robustcls.evaluation.config import ReportConfig
from robustcls.evaluation.pace import Clock, Pace, measure_pace
from robustcls.evaluation.plan import Plan
from robustcls.evaluation.subject import Subject

QUICK = {32: 2.0, 224: 5.0}  # minutes of the profile quick by the longer side of the images, interpolated linearly
RESERVE = 0.1  # share of a budget kept for what is not estimated: reading, checks, writing
ATTACKS = 0.5  # share of a budget that the attacks may use even if other parts need the rest


@dataclass
class Budget:
    """The wall time that a model's report may take, from now on. minutes: None for no limit."""

    minutes: float | None = None
    kept: Collection[str] = ()  # options whose counts the user gave, which are not lowered
    clock: Clock = time.perf_counter
    spent: float = 0.0  # seconds of the budget that were used before
    stops: bool = True  # whether attacks are stopped when the budget is used up
    after: float = 0.0  # seconds to reserve for what always follows the attacks

    def __post_init__(self) -> None:
        held = math.inf if self.minutes is None else 60 * self.minutes * (1 - RESERVE) - self.spent
        self.end = self.clock() + held

    @property
    def text(self) -> str:
        return f"the budget of {self.minutes:g} minute{'' if self.minutes == 1 else 's'}"

    def over(self) -> str:
        """Return why attacks must stop now, or "" while they may continue."""
        return f"stopped by {self.text}: give more with --minutes" if self.stops and self.left() <= self.after else ""

    def left(self) -> float:
        """Return the seconds left; 0 if the budget is used up."""
        return max(0.0, self.end - self.clock())

    def fitting(self, option: str, count: int, each: float, others: Sequence[float] = ()) -> int:
        """Return how many of `count` samples, at `each` seconds per sample, fit into the time left with what others need.

        If not everything fits, parts that need less than an even share get what they need, and the others share the rest
        evenly. others: seconds of the parts that follow.
        """
        if option in self.kept or each <= 0 or math.isinf(self.end):
            return count
        share = even_share(self.left(), [count * each, *others])
        return count if math.isinf(share) else min(count, int(share / each))


def even_share(total: float, needs: Sequence[float]) -> float:
    """Return the largest share for each need so that together they stay within the total; inf if all needs are met."""
    for done, need in enumerate(sorted(needs)):
        share = total / (len(needs) - done)
        if need > share:
            return share
        total -= need
    return math.inf


def minutes_of(config: ReportConfig, sides: Sequence[int]) -> float | None:
    """Return the time limit in minutes for a model with images of these sides; None for no limit."""
    if config.minutes is not None or config.profile != "quick":
        return config.minutes
    (small, least), (large, most) = sorted(QUICK.items())
    share = (max(sides) - small) / (large - small)
    return round(least + (most - least) * min(1.0, max(0.0, share)), 1)


def kept_counts(given: Collection[str]) -> frozenset[str]:
    """Return those of the user's options whose counts a budget does not lower.

    The budget of a profile lowers no count that the user gave. A budget that the user gave treats the counts as upper limits,
    except `n`, because it says what the accuracy is estimated on.
    """
    return frozenset({"n"} & set(given) if "minutes" in given else given)


def fitting_samples(
    budget: Budget, pace: Pace, config: ReportConfig, attacks: Sequence[NamedAttack], count: int, *, curve: bool
) -> tuple[int, float]:
    """Return on how many of `count` samples the attacks can run within the budget, and the seconds that this takes at most."""
    each = pace.of_attacks(attacks, curve=curve, checks=config.checks == "all")
    if "n" in budget.kept or math.isinf(budget.end) or each <= 0:
        return count, count * each
    others = sum(getattr(config, one.count) * one.load().seconds(pace) for one in measures() if one.count)
    allowed = max(ATTACKS * budget.left(), budget.left() - others)
    count = max(min(count, FEWEST), min(count, int(allowed / each)))
    return count, count * each


def check_holds(budget: Budget, pace: Pace, attacks: Sequence[NamedAttack], count: int, each: float, name: str) -> None:
    """Raise InputError if a budget that stops attacks is too short for even one step of each attack on `count` samples.

    each: seconds of a sample that withstands the attacks. name: of the model.
    """
    least, most = count * pace.of_one_step(attacks), count * each
    if not budget.stops or least <= budget.left():
        return
    enough = math.ceil((most + pace.of_checks(count) + budget.spent) / (1 - RESERVE) / 6) / 10
    raise InputError(
        f"{budget.text} is too little for {name}: measuring its speed took {duration(budget.spent)}, and a clean pass with "
        f"one step of each attack on {count} samples takes about {duration(least)}, all steps up to {duration(most)}: "
        f"give `minutes={enough:g}`, {'fewer samples with `n`, ' if 'n' in budget.kept else ''}or fewer or cheaper attacks"
    )


def lowered(count: int, fits: int, budget: Budget) -> str:
    """Return the text about a part that runs on fewer samples."""
    return f"reduced from n = {count} to n = {fits} to keep {budget.text}"


def lowered_to_fewest(count: int, fits: int, budget: Budget) -> str:
    """Return the text about attacks that run on the fewest samples allowed and may still exceed the budget."""
    return f"reduced from n = {count} to n = {fits}, the fewest, for {budget.text}"


def too_long(seconds: float, budget: Budget) -> str:
    """Return the text about a part that is left out."""
    return (
        f"left out to keep {budget.text}: it takes about {duration(seconds)}, and {duration(budget.left())} are left; "
        "give more with --minutes"
    )


@dataclass
class Estimate:
    """A subject, on as many samples as fit its time limit, and how long its report is expected to take."""

    subject: Subject
    plan: Plan
    pace: Pace
    attack_seconds: float  # per sample that withstands all attacks
    minutes: float | None
    reduced: str = ""  # why there are fewer samples than the options ask for
    spent: float = 0.0  # seconds of the budget used to measure the pace

    def begin(self, given: Collection[str]) -> tuple[Budget, str]:
        """Start the budget. Return it, and a line on how long the attacks will take."""
        budget = _begin(self.minutes, given, self.spent)
        count = len(self.subject.y)
        budget.after = min(self.pace.of_checks(count), budget.left() / 2)
        text = f"attacks: {count} samples, at most about {duration(count * self.attack_seconds)}"
        if self.minutes is not None:
            text += f", of {budget.text}"
        if budget.stops and count * self.attack_seconds > budget.left() - budget.after:
            text += ", after which they are stopped, and the evaluation says so"
        return budget, "; ".join(filter(None, (text, self.reduced)))


def estimate(
    subjects: Sequence[Subject],
    plans: Sequence[Plan],
    config: ReportConfig,
    given: Collection[str],
) -> list[Estimate]:
    """Return an estimate for each subject. If a budget requires fewer samples, all subjects get the same, to be comparable.

    given: options that the user gave, whose counts override the budget of a profile. Raises InputError if a budget is too
    short for even one step of each attack.
    """
    estimates, counts = [], []
    for subject, plan in zip(subjects, plans, strict=True):
        x = subject.x[:32]
        began, minutes = time.perf_counter(), minutes_of(config, x.shape[2:])
        wanted = [one for one in measures() if not one.count or getattr(config, one.count)]
        pace = measure_pace(subject.model, x, plan.methods, measures=wanted)
        budget = _begin(minutes, given, time.perf_counter() - began)
        have, curve = len(subject.y), bool(plan.eps_grid)
        counts.append(fitting_samples(budget, pace, config, plan.attacks, have, curve=curve)[0])
        each = pace.of_attacks(plan.attacks, curve=curve, checks=config.checks == "all")
        check_holds(budget, pace, plan.attacks, counts[-1], each, subject.model_record.name)
        estimates.append(Estimate(subject, plan, pace, each, minutes, spent=budget.spent))
        if counts[-1] < have:
            text_of = lowered if counts[-1] * each <= budget.left() else lowered_to_fewest
            estimates[-1].reduced = text_of(have, counts[-1], budget)
    fewest = min(counts)
    reason = next(one.reduced for one, count in zip(estimates, counts, strict=True) if count == fewest)
    for one in estimates:
        if fewest < len(one.subject.y):
            one.subject, one.reduced = _with_fewer(one.subject, fewest), reason
            one.plan.reduced["attacks"] = reason
    return estimates


def _begin(minutes: float | None, given: Collection[str], spent: float) -> Budget:
    """Return the budget. If the user gave `n` but no `minutes`, attacks are not stopped before the end."""
    return Budget(minutes, kept_counts(given), spent=spent, stops="minutes" in given or "n" not in given)


def _with_fewer(subject: Subject, count: int) -> Subject:
    chosen = subject.take(first_proportional(subject.y, count))
    pixels = (chosen.x * 255).round().byte()  # as the data gave them
    sha256 = Images(pixels, chosen.y, tuple(subject.classes), subject.data_record.name).sha256()
    chosen.data_record = replace(subject.data_record, n=count, sha256=sha256, sampling=SAMPLING_RULE)
    return chosen
