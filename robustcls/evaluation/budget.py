"""What the parts of a report will take, from measured seconds a pass, and how many samples a time budget holds.

Seconds are wall time. Estimates of attacks are what a sample costs that withstands them: most break sooner.
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustcls.attribution import explain_counted
from robustcls.attribution._batches import images_per_pass
from robustcls.attribution.measures.trust import FORWARDS, MAPS
from robustcls.core import plugins
from robustcls.core.classifier import device_of
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.core.progress import duration
from robustcls.core.traits import traits_of
from robustcls.corruptions._severity import SEVERITIES
from robustcls.evaluation.config import ReportConfig
from robustcls.evaluation.gallery import MAPS as GALLERY_MAPS
from robustcls.evaluation.minimum import PASSES as MINIMUM_PASSES
from robustcls.evaluation.norm_curves import PASSES as CURVE_PASSES
from robustcls.runtime.fused import Counted, make_search_model

Clock = Callable[[], float]

QUICK = {32: 2.0, 224: 5.0}  # minutes of the profile quick, by the longer side of the images; between, on a line
TIMED = 8  # images of the batch whose passes are timed
RESERVE = 0.1  # of a budget, for what is not estimated: reading, checks, writing
ATTACKS = 0.5  # of a budget that the attacks may take where other parts want the rest
FEWEST = 4  # samples: a part that holds fewer says nothing
COUNTED = ("steps", "queries", "restarts", "targets", "draws", "evaluations")  # options that multiply passes
CHECKED = (
    32,
    6,
    6,
)  # of the self-checks without an attack: samples at most, passes forward and with a gradient of each
CHECKS, ALL_CHECKS, CURVE = 0.15, 1.0, 2.0  # of the attacks' passes, that self-checks and a security curve take


@dataclass
class Pace:
    """Seconds an image, on this machine."""

    forward: float
    gradient: float  # a pass forward and backward; as long as one forward of a model without gradients
    maps: dict[str, float] = field(default_factory=dict)  # one map, by method
    corrupting: float = 0.0  # making all corrupted versions of an image

    def of_part(self, section: str) -> float:
        """Seconds that a sample takes in a part of the report, by its key in `Evaluation.not_run`."""
        return {
            "calibration": 2 * self.forward,
            "gallery": 2 * self.forward + GALLERY_MAPS * sum(self.maps.values()),
            "stability": MAPS * sum(self.maps.values()) + FORWARDS * len(self.maps) * self.forward,
            "other_curves": CURVE_PASSES * self.gradient,
            "minimum": MINIMUM_PASSES * self.gradient,
            "corruptions": self.corrupting + len(SEVERITIES) * len(plugins.names("corruption")) * self.forward,
        }[section]

    def of_one_step(self, attacks: Sequence[str]) -> float:
        """Seconds that a sample takes at least: a clean pass, and one step of each attack, as the weakest models do."""
        gradients = [traits_of(plugins.load("attack", spec)).gradients for spec in attacks]
        return self.forward + sum(self.gradient if one else self.forward for one in gradients)

    def of_checks(self, count: int) -> float:
        """Seconds that the self-checks without an attack take, which follow the attacks on so many samples."""
        samples, forwards, gradients = CHECKED
        return min(count, samples) * (forwards * self.forward + gradients * self.gradient)

    def of_attacks(self, attacks: Sequence[str], *, curve: bool, checks: bool) -> float:
        """Seconds that a sample takes which withstands the attacks, with self-checks, and with a curve over radii."""
        seconds = 0.0
        for spec in attacks:
            gradients = traits_of(plugins.load("attack", spec)).gradients
            seconds += passes_of(spec) * (self.gradient if gradients else self.forward)
        return seconds * (1 + (CURVE if curve else 0) + (ALL_CHECKS if checks else CHECKS))


def passes_of(spec: str) -> int:
    """How often an attack passes an image that withstands it: its steps, times restarts and targets; one more at the end."""
    count = 1
    for name, value in plugins.resolved("attack", spec).items():
        if name in COUNTED and type(value) is int and value > 0:
            count *= value
    return count + 1


def measure_pace(
    model: nn.Module,
    x: Tensor,
    methods: Sequence[str] = (),
    *,
    corruptions: bool = False,
    clock: Clock = time.perf_counter,
) -> Pace:
    """Times a batch of x (N,C,H,W on the CPU) forward and backward, a map by each method, and one image's corruptions.

    The model is left as it was. What fails is not timed: it says so when its turn comes.
    """
    device = device_of(model)
    batch = x[: min(TIMED, images_per_pass(x))].float().to(device)

    def timed(work: Callable[[], Any], images: int = 1) -> float:
        try:
            began = clock()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return (clock() - began) / images
        except (InputError, RuntimeError):
            return 0.0

    with torch.inference_mode(False), frozen(model):
        search = make_search_model(model, "fp32", batch[:2])  # as attacks see it; its passes are also the warm-up
        plain = Counted(model)
        with torch.no_grad():
            plain(batch)
            forward = timed(lambda: plain(batch), len(batch))
        gradient = forward
        if getattr(model, "differentiable", True):
            image = batch.clone().requires_grad_()
            gradient = timed(lambda: torch.autograd.grad(search(image).sum(), image), len(batch)) or forward
    maps = {method: timed(partial(explain_counted, model, x[:1].float(), method=method)) for method in methods}
    return Pace(forward, gradient, maps, _corrupting(x[:1].float().cpu(), timed) if corruptions else 0.0)


def _corrupting(x: Tensor, timed: Callable[..., float]) -> float:
    middle = SEVERITIES[len(SEVERITIES) // 2]
    generator = torch.Generator().manual_seed(0)
    functions = [plugins.load("corruption", name) for name in plugins.names("corruption")]
    return len(SEVERITIES) * sum(timed(partial(one, x, middle, generator=generator)) for one in functions)


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
    --n, which says what is estimated.
    """
    return frozenset({"n"} & set(given) if "minutes" in given else given)


def fitting_samples(
    budget: Budget, pace: Pace, config: ReportConfig, attacks: Sequence[str], count: int, *, curve: bool
) -> tuple[int, float]:
    """How many of `count` samples the attacks may meet within the budget, and the seconds that they take at most."""
    each = pace.of_attacks(attacks, curve=curve, checks=config.checks == "all")
    if "n" in budget.kept or math.isinf(budget.end) or each <= 0:
        return count, count * each
    wanted = {
        "gallery": config.examples, "stability": config.maps_n, "other_curves": config.curves_n,
        "minimum": config.minimum_n, "corruptions": config.corruptions_n,
    }  # fmt: skip
    others = sum(number * pace.of_part(section) for section, number in wanted.items())
    allowed = max(ATTACKS * budget.left(), budget.left() - others)
    count = max(min(count, FEWEST), min(count, int(allowed / each)))
    return count, count * each


def check_holds(budget: Budget, pace: Pace, attacks: Sequence[str], count: int, each: float, name: str) -> None:
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
        f"give --minutes {enough:g}, {'fewer samples with --n, ' if 'n' in budget.kept else ''}or fewer or cheaper attacks"
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
