"""The records of a choice: choose.json, its plan and its trials."""

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
UNEQUAL = 1.25  # ratio of seconds or updates above which a difference may be due to these


@dataclass
class Trial(JsonFile):
    """One training run of a candidate, and its validation."""

    WRITER: ClassVar[str] = WRITER

    name: str
    stage: str  # such as "rung 1", "seed 1", "25% of the images"
    folder: str  # folder of the run, relative to the folder of the choice
    seed: Integer
    images: Count  # number of training images
    epochs: Count  # trained epochs, without those that a rollback undid; the run may have stopped early
    updates: Count
    planned_seconds: Distance  # time that it was given
    seconds: Distance  # measured: preparation, updates, validation and saving after each epoch, validation at the end
    around_seconds: Distance  # part of `seconds` before the first epoch and after the last
    clean: Accuracy  # on the validation images
    robust: Accuracy | None  # under the validation attack; None without one
    clean_right: str  # one digit per validation image: 1 if it is classified correctly
    robust_right: str
    majority: Share  # share of the most frequent class among the validation images: the accuracy of guessing
    stopped: str = ""  # why the run ended early
    failed: str = ""  # why there is no model; the accuracies are then 0
    planned_epochs: Integer = 0  # epochs of the learning rate schedule; 0 in older files
    schema: str = "robustcls/choose-trial/1"

    def check(self) -> None:
        """Raise ValueError if counts and digits disagree."""
        for kind, accuracy, right in (
            ("clean_right", self.clean, self.clean_right),
            ("robust_right", self.robust, self.robust_right),
        ):
            counted = (right.count("1"), len(right), right.count("0") + right.count("1"))
            total = accuracy.total if accuracy else 0
            need(
                counted == (accuracy.correct if accuracy else 0, total, total), kind, right, "what its accuracy counts"
            )

    @property
    def chooses(self) -> list[bool]:
        """The ranking criterion: whether each validation image is correct under attack, or clean without an attack."""
        return [digit == "1" for digit in (self.robust_right if self.robust else self.clean_right)]

    @property
    def guesses(self) -> bool:
        """Whether clean accuracy is not clearly better than guessing, so that the rank is meaningless."""
        return self.clean.ci95[0] <= self.majority

    @property
    def score(self) -> Accuracy:
        return self.robust or self.clean

    @property
    def scheduled_epochs(self) -> int:
        """The planned epochs, even if fewer were trained."""
        return self.planned_epochs or max(1, self.epochs)

    @property
    def seconds_had(self) -> float:
        """The seconds that it took, or its planned seconds if it ended early and could have used them."""
        return max(self.seconds, self.planned_seconds) if self.stopped or self.failed else self.seconds


@dataclass
class Contender:
    """A candidate and its costs."""

    name: str
    config: dict[str, Any]  # training options
    parameters: Count
    mflop: Distance  # MFLOP of a forward pass per image; a multiply-add counts as two operations
    batch_size: Count
    updates_per_epoch: Count
    setup_seconds: Distance  # measured in the rehearsal, like the next two
    epoch_seconds: Distance  # including validation
    val_seconds: Distance
    latency_ms: Distance | None = None  # median for the exported file, one image, one thread; None if not measured
    pareto: bool = False  # Pareto-optimal after the first rung


@dataclass
class Plan(JsonFile):
    """The requested options, and the costs of each candidate from a rehearsal."""

    WRITER: ClassVar[str] = WRITER

    asked: dict[str, Any]
    candidates: list[Contender]
    schema: str = "robustcls/choose-plan/1"


@dataclass
class Rung:
    """A round of the halving, in which all candidates should train equally long."""

    seconds: Distance  # planned for each candidate
    trials: list[Trial]  # the best first
    kept: list[str]
    unequal: str = ""  # the candidates with the most and the fewest seconds, if these differ much

    @classmethod
    def of(cls, seconds: float, trials: Sequence[Trial], kept: Sequence[str]) -> "Rung":
        most, least = (end(trials, key=lambda trial: trial.seconds_had) for end in (max, min))
        had = [(trial.name, trial.seconds_had) for trial in (most, least)]
        return cls(seconds, list(trials), list(kept), _unequal(had, "s"))


@dataclass
class Comparison:
    """The paired difference in accuracy of two trials on the same validation images."""

    first: str
    second: str
    stage: str
    difference: Number
    ci95: list[Number]  # Newcombe interval
    p: Share  # p-value of McNemar's test
    claimable: bool  # the interval excludes 0, the difference exceeds seed noise, and both had about the same time
    unequal: str = ""  # the seconds or updates, if the better one had so many more that this may be the reason

    @classmethod
    def of(cls, first: Trial, second: Trial, stage: str, noise: float) -> "Comparison":
        """Compare two trials that should have trained equally long."""
        had = [(trial.name, trial.seconds_had) for trial in (first, second)]
        return cls._of(first, second, stage, noise, had, "s")

    @classmethod
    def of_images(cls, first: Trial, second: Trial, noise: float) -> "Comparison":
        """Compare a candidate on more and on fewer images, which should have had the same number of updates."""
        had = [(f"{trial.images} images", float(trial.updates)) for trial in (first, second)]
        return cls._of(first, second, "as many updates", noise, had, "updates")

    @classmethod
    def _of(
        cls, first: Trial, second: Trial, stage: str, noise: float, had: list[tuple[str, float]], unit: str
    ) -> "Comparison":
        """Compare two trials. had: label of each trial, and its amount of the unit."""
        one, other = first.chooses, second.chooses
        difference = Difference.of(one, other)
        unequal = _unequal(had if difference.value > 0 else had[::-1], unit)
        sure = difference.claimable(noise) and not unequal
        return cls(
            had[0][0], had[1][0], stage, difference.value, list(difference.ci95), mcnemar(one, other), sure, unequal
        )


@dataclass
class Choice(JsonFile):
    """The outcome of `robustcls choose`.

    Attributes:
        winner: the remaining candidate; its checkpoint is in `folder` of the first trial of the last rung.
        rungs: all trials of the halving.
        rivals: comparisons of the winner with all others, each in the last rung in which both were trained.
        home: the folder of choose.json; None for a record that was loaded.
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
    seeds: list[Trial] = field(default_factory=list)  # the winner's recipe by seed; the first is the trial that won
    noise: Share | None = None  # range of these accuracies: the smallest difference that may be claimed
    curve: list[Trial] = field(default_factory=list)  # the winner on 25, 50 and 100% of the images
    more_data: Comparison | None = None  # all images compared with half of them
    larger_model: Comparison | None = None  # winner and next larger or smaller candidate, the larger one first
    remark: str = ""  # what was not measured, and why
    schema: str = "robustcls/choose/1"

    home = cast("Path", None)  # without an annotation, it is not a field of the dataclass

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
        """The mean accuracy of the winner's recipe over its seeds; only the first seed was selected by accuracy."""
        accuracies = [trial.score.accuracy for trial in self.seeds]
        return sum(accuracies) / len(accuracies) if accuracies else None


def _unequal(had: Sequence[tuple[str, float]], unit: str) -> str:
    """Return a sentence if the first of two had more than UNEQUAL times as much as the second, else ""."""
    (name, much), (other, little) = had
    return f"{name} had {much:.3g} {unit}, {other} {little:.3g}" if much > UNEQUAL * little else ""
