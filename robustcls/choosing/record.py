"""The record of a choice: choose.json, the plan before it and the trials that it is made of."""

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic.dataclasses import dataclass

from robustcls.choosing.halving import Difference
from robustcls.results.accuracy import Accuracy
from robustcls.results.fields import Count, Distance, Integer, Number, Share, need
from robustcls.results.json_files import JsonFile
from robustcls.results.statistics import mcnemar
from robustcls.results.subject import Provenance, Threat

WRITER = "`robustcls choose`"
UNEQUAL = 1.25  # times the seconds, or the updates, of another: from there on a difference may come from these


@dataclass
class Trial(JsonFile):
    """A candidate, trained and judged once."""

    WRITER: ClassVar[str] = WRITER

    name: str
    stage: str  # such as "rung 1", "seed 1", "25% of the images"
    folder: str  # of the run, from the folder of the choice
    seed: Integer
    images: Count  # trained on
    epochs: Count  # trained, without those that were undone; the run may have stopped early
    updates: Count
    planned_seconds: Distance  # its share of the time
    seconds: Distance  # measured: preparation, updates, validation and saving after each epoch, validation at the end
    around_seconds: Distance  # of these, before the first epoch and after the last
    clean: Accuracy  # on the validation images
    robust: Accuracy | None  # under the validation attack; None without one
    clean_right: str  # a digit per validation image, 1 where it is classified correctly
    robust_right: str
    majority: Share  # of the most frequent class among these images: what guessing reaches
    stopped: str = ""  # why the run ended early
    failed: str = ""  # why there is no model; its accuracies are 0
    planned_epochs: Integer = 0  # for which the rate was scheduled; 0 in older files
    schema: str = "robustcls/choose-trial/1"

    def check(self) -> None:
        """Raises ValueError where counts and digits disagree."""
        for kind, found, right in (
            ("clean_right", self.clean, self.clean_right),
            ("robust_right", self.robust, self.robust_right),
        ):
            counted = (right.count("1"), len(right), right.count("0") + right.count("1"))
            total = found.total if found else 0
            need(counted == (found.correct if found else 0, total, total), kind, right, "what its accuracy counts")

    @property
    def chooses(self) -> list[bool]:
        """By what it is ranked: whether each validation image is right under attack, or clean where there is none."""
        return [digit == "1" for digit in (self.robust_right if self.robust else self.clean_right)]

    @property
    def guesses(self) -> bool:
        """Whether it is not clearly better than guessing on clean images, so that its rank tells nothing."""
        return self.clean.ci95[0] <= self.majority

    @property
    def score(self) -> Accuracy:
        return self.robust or self.clean

    @property
    def scheduled_epochs(self) -> int:
        """Those of the recipe, however few were trained."""
        return self.planned_epochs or max(1, self.epochs)

    @property
    def seconds_had(self) -> float:
        """Those that it took; one that ended by itself might have gone on for all of its share."""
        return max(self.seconds, self.planned_seconds) if self.stopped or self.failed else self.seconds


@dataclass
class Contender:
    """A candidate, and what it costs."""

    name: str
    config: dict[str, Any]  # the options of training
    parameters: Count
    mflop: Distance  # of an image's forward pass, two operations a multiply-add
    batch_size: Count
    updates_per_epoch: Count
    setup_seconds: Distance  # by the rehearsal, as the next two
    epoch_seconds: Distance  # with its validation
    val_seconds: Distance
    latency_ms: Distance | None = None  # median of the exported file, one image, one thread; None where not measured
    pareto: bool = False  # after the first rung no other is at least as good in everything and better in something


@dataclass
class Plan(JsonFile):
    """What was asked for, and what the rehearsal of each candidate found."""

    WRITER: ClassVar[str] = WRITER

    asked: dict[str, Any]
    candidates: list[Contender]
    schema: str = "robustcls/choose-plan/1"


@dataclass
class Rung:
    """A round of the halving, in which each candidate should have the same seconds."""

    seconds: Distance  # planned, for each
    trials: list[Trial]  # the best first
    kept: list[str]
    unequal: str = ""  # who had the most seconds and who the least, where these are far apart

    @classmethod
    def of(cls, seconds: float, trials: Sequence[Trial], kept: Sequence[str]) -> "Rung":
        most, least = (end(trials, key=lambda trial: trial.seconds_had) for end in (max, min))
        had = [(trial.name, trial.seconds_had) for trial in (most, least)]
        return cls(seconds, list(trials), list(kept), _unequal(had, "s"))


@dataclass
class Comparison:
    """Accuracy of one trial minus that of another, on the same validation images."""

    first: str
    second: str
    stage: str
    difference: Number
    ci95: list[Number]  # Newcombe's
    p: Share  # McNemar's
    claimable: bool  # the interval leaves out 0, other seeds of one recipe make less, and what both had is about equal
    unequal: str = ""  # how much more the better one had, where that may be why it is better

    @classmethod
    def of(cls, first: Trial, second: Trial, stage: str, noise: float) -> "Comparison":
        """Of two that should have had the same seconds."""
        had = [(trial.name, trial.seconds_had) for trial in (first, second)]
        return cls._of(first, second, stage, noise, had, "s")

    @classmethod
    def of_images(cls, first: Trial, second: Trial, noise: float) -> "Comparison":
        """Of one candidate on more and on fewer images, which should have had the same updates."""
        had = [(f"{trial.images} images", float(trial.updates)) for trial in (first, second)]
        return cls._of(first, second, "as many updates", noise, had, "updates")

    @classmethod
    def _of(
        cls, first: Trial, second: Trial, stage: str, noise: float, had: list[tuple[str, float]], unit: str
    ) -> "Comparison":
        """had: what each is called, and how much of the unit it had."""
        one, other = first.chooses, second.chooses
        found = Difference.of(one, other)
        unequal = _unequal(had if found.value > 0 else had[::-1], unit)
        sure = found.claimable(noise) and not unequal
        return cls(had[0][0], had[1][0], stage, found.value, list(found.ci95), mcnemar(one, other), sure, unequal)


@dataclass
class Choice(JsonFile):
    """The outcome of `robustcls choose`.

    Attributes:
        winner: the candidate that is left; its checkpoint is in `folder` of the last rung's first trial.
        rungs: all trials of the halving.
        rivals: the winner against every other, in the last rung in which both were trained.
        home: the folder of choose.json, where it was chosen here.
    """

    WRITER: ClassVar[str] = WRITER

    winner: str
    data: str
    threat: Threat
    chosen_by: str  # e.g. "robust accuracy under pgd(steps=10) on 500 validation images"
    minutes: Distance
    candidates: list[Contender]
    rungs: list[Rung]
    rivals: list[Comparison]
    provenance: Provenance
    seeds: list[Trial] = field(default_factory=list)  # the winner's recipe again, the one that won first
    noise: Share | None = None  # the range of their accuracies: the smallest difference to claim
    curve: list[Trial] = field(default_factory=list)  # the winner on 25, 50 and 100% of the images
    more_data: Comparison | None = None  # all images against half of them
    larger_model: Comparison | None = None  # the winner and the next larger or smaller candidate, the larger first
    remark: str = ""  # what was not measured, and why
    schema: str = "robustcls/choose/1"

    home = cast("Path", None)  # without an annotation it is no field

    @property
    def best(self) -> Trial:
        """The winner's trial in the last rung."""
        return self.rungs[-1].trials[0]

    @property
    def open(self) -> list[Comparison]:
        """The rivals that cannot be told apart from the winner."""
        return [rival for rival in self.rivals if not rival.claimable]

    @property
    def seeds_mean(self) -> float | None:
        """The mean accuracy of the winner's recipe over its seeds, by which no seed was chosen but the first."""
        accuracies = [trial.score.accuracy for trial in self.seeds]
        return sum(accuracies) / len(accuracies) if accuracies else None


def _unequal(had: Sequence[tuple[str, float]], unit: str) -> str:
    """Says so where the first of two had more than UNEQUAL times as much as the second."""
    (name, much), (other, little) = had
    return f"{name} had {much:.3g} {unit}, {other} {little:.3g}" if much > UNEQUAL * little else ""
