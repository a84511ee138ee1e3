"""A report under a time limit: how many samples it holds, and what it leaves out."""

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

QUICK = {32: 2.0, 224: 5.0}  # minutes of the profile quick, by the longer side of the images; between, on a line
RESERVE = 0.1  # of a budget, for what is not estimated: reading, checks, writing
ATTACKS = 0.5  # of a budget that the attacks may take where other parts want the rest


@dataclass
class Budget:
    """The wall time that a model's report may take, from now on. minutes: None for as long as it takes."""

    minutes: float | None = None
    kept: Collection[str] = ()  # options whose counts the user gave, which it does not lower
    clock: Clock = time.perf_counter
    spent: float = 0.0  # seconds of it, before
    stops: bool = True  # whether attacks are stopped when it is used up
    after: float = 0.0  # seconds of it that follow the attacks, however short these are

    def __post_init__(self) -> None:
        held = math.inf if self.minutes is None else 60 * self.minutes * (1 - RESERVE) - self.spent
        self.end = self.clock() + held

    @property
    def text(self) -> str:
        return f"the budget of {self.minutes:g} minute{'' if self.minutes == 1 else 's'}"

    def over(self) -> str:
        """Why attacks are stopped now; "" while they may go on."""
        return f"stopped by {self.text}: give more with --minutes" if self.stops and self.left() <= self.after else ""

    def left(self) -> float:
        """Seconds; 0 where it is used up."""
        return max(0.0, self.end - self.clock())

    def fitting(self, option: str, count: int, each: float, others: Sequence[float] = ()) -> int:
        """How many of `count` samples, at `each` seconds, the time that is left holds beside what others need.

        Where not all needs can be met, those that need less than an even share have what they need, and the rest share
        alike. others: (seconds) of the parts that follow.
        """
        if option in self.kept or each <= 0 or math.isinf(self.end):
            return count
        share = even_share(self.left(), [count * each, *others])
        return count if math.isinf(share) else min(count, int(share / each))


def even_share(total: float, needs: Sequence[float]) -> float:
    """The most that each may have, so that together they have no more than the total; inf where all needs are met."""
    for done, need in enumerate(sorted(needs)):
        share = total / (len(needs) - done)
        if need > share:
            return share
        total -= need
    return math.inf


def minutes_of(config: ReportConfig, sides: Sequence[int]) -> float | None:
    """The minutes that the options give a model with images of these sides; None for no limit."""
    if config.minutes is not None or config.profile != "quick":
        return config.minutes
    (small, least), (large, most) = sorted(QUICK.items())
    share = (max(sides) - small) / (large - small)
    return round(least + (most - least) * min(1.0, max(0.0, share)), 1)


def kept_counts(given: Collection[str]) -> frozenset[str]:
    """Of the options that the user gave, those whose counts a budget does not lower.

    A profile's budget lowers none that were given. One that was given itself takes them as the most there may be, all but
    `n`, which says what is estimated.
    """
    return frozenset({"n"} & set(given) if "minutes" in given else given)


def fitting_samples(
    budget: Budget, pace: Pace, config: ReportConfig, attacks: Sequence[NamedAttack], count: int, *, curve: bool
) -> tuple[int, float]:
    """How many of `count` samples the attacks may meet within the budget, and the seconds that they take at most."""
    each = pace.of_attacks(attacks, curve=curve, checks=config.checks == "all")
    if "n" in budget.kept or math.isinf(budget.end) or each <= 0:
        return count, count * each
    others = sum(getattr(config, one.count) * one.load().seconds(pace) for one in measures() if one.count)
    allowed = max(ATTACKS * budget.left(), budget.left() - others)
    count = max(min(count, FEWEST), min(count, int(allowed / each)))
    return count, count * each


def check_holds(budget: Budget, pace: Pace, attacks: Sequence[NamedAttack], count: int, each: float, name: str) -> None:
    """Raises InputError where a budget that stops the attacks on `count` samples does not hold even one step of each.

    each: seconds of a sample that withstands them. name: of the model.
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
    return f"reduced from n = {count} to n = {fits} to keep {budget.text}"


def lowered_to_fewest(count: int, fits: int, budget: Budget) -> str:
    """Of attacks that may take longer even so."""
    return f"reduced from n = {count} to n = {fits}, the fewest, for {budget.text}"


def too_long(seconds: float, budget: Budget) -> str:
    return (
        f"left out to keep {budget.text}: it takes about {duration(seconds)}, and {duration(budget.left())} are left; "
        "give more with --minutes"
    )


@dataclass
class Estimate:
    """A subject, on as many samples as its time limit holds, and what its report is expected to take."""

    subject: Subject
    plan: Plan
    pace: Pace
    attack_seconds: float  # of a sample that withstands all attacks
    minutes: float | None
    reduced: str = ""  # why there are fewer samples than the profile says
    spent: float = 0.0  # seconds of the budget, that measuring the pace took

    def begin(self, given: Collection[str]) -> tuple[Budget, str]:
        """The budget, which runs from now on, and in a line what the attacks will take."""
        budget = _begin(self.minutes, given, self.spent)
        count = len(self.subject.y)
        budget.after = min(self.pace.of_checks(count), budget.left() / 2)
        text = f"attacks: {count} samples, at most about {duration(count * self.attack_seconds)}"
        if self.minutes is not None:
            text += f", of {budget.text}"
        if budget.stops and count * self.attack_seconds > budget.left() - budget.after:
            text += ", at whose end they are stopped, and the evaluation says so"
        return budget, "; ".join(filter(None, (text, self.reduced)))


def estimate(
    subjects: Sequence[Subject],
    plans: Sequence[Plan],
    config: ReportConfig,
    given: Collection[str],
) -> list[Estimate]:
    """An estimate for each subject. Where a budget asks for fewer samples, all subjects keep the same, to be compared.

    given: options that the user named, whose counts win over the profile's budget.
    Raises InputError where a budget does not hold even the first step of each attack.
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
            words = lowered if counts[-1] * each <= budget.left() else lowered_to_fewest
            estimates[-1].reduced = words(have, counts[-1], budget)
    fewest = min(counts)
    reason = next(one.reduced for one, count in zip(estimates, counts, strict=True) if count == fewest)
    for one in estimates:
        if fewest < len(one.subject.y):
            one.subject, one.reduced = _with_fewer(one.subject, fewest), reason
            one.plan.reduced["attacks"] = reason
    return estimates


def _begin(minutes: float | None, given: Collection[str], spent: float) -> Budget:
    """A count of samples that was given, to a profile's budget, is attacked to the end."""
    return Budget(minutes, kept_counts(given), spent=spent, stops="minutes" in given or "n" not in given)


def _with_fewer(subject: Subject, count: int) -> Subject:
    chosen = subject.take(first_proportional(subject.y, count))
    pixels = (chosen.x * 255).round().byte()  # as the data gave them
    sha256 = Images(pixels, chosen.y, tuple(subject.classes), subject.data_record.name).sha256()
    chosen.data_record = replace(subject.data_record, n=count, sha256=sha256, sampling=SAMPLING_RULE)
    return chosen
