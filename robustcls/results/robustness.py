"""What the attacks did: each attack, self-check and sample, and accuracy over radii."""

from collections.abc import Sequence
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Accuracy, need_around
from robustcls.results.fields import SLACK, Count, Distance, Interval, Number, Share, Status, need
from robustcls.results.statistics import repeated_shares


@dataclass
class Attack:
    """One attack of the cascade: it was run on the samples that were still classified correctly when its turn came."""

    name: str
    options: dict[str, Any]
    attacked: Count
    broken: Count
    robust_accuracy: Share  # after this attack and all before it
    seconds: Number
    forwards: Count  # images passed forward, summed over the attack
    backwards: Count
    alone: Accuracy | None = None  # against every sample; None where the attack was run on survivors only
    unique: Count | None = None  # samples that no other attack broke; None likewise
    median_distance: Number | None = None  # over the samples that it broke
    error: str = ""
    # Of a minimum-norm attack, over all samples it was run on; None where more than half are censored.
    median_nearest: Number | None = None
    censored: Count | None = None  # of a minimum-norm attack: samples without any adversarial example
    sampled_from: Count | None = (
        None  # samples left, of which it met `attacked`, drawn at random; None where it met all
    )

    @property
    def at_most(self) -> float | None:
        """Of the samples that it was drawn from, the share that it would break at most, with 95% confidence: that of which
        `attacked` draws give none in a twentieth of cases. None where it met all, or broke one.
        """
        if self.sampled_from is None or self.broken or not self.attacked:
            return None
        return 1 - 0.05 ** (1 / self.attacked)


@dataclass
class Rejection:
    """A detector that refuses answers, and how the images and the attacks fared under it.

    An image counts as robust where the clean one is classified correctly and accepted, and nothing in the ball that the attacks
    found is misclassified and accepted (Tramer 2021, arXiv:2107.11630): a correct answer that is refused is an error.
    """

    detector: str
    fpr: Share  # that was asked for
    threshold: Number  # of the score, above which an answer is refused
    held_out: Count  # clean images on which the threshold was chosen
    held_out_rejected: Count
    clean: Accuracy  # without the detector
    clean_rejected: Count  # of the clean images that are evaluated
    correct_rejected: Count  # of those, how many are classified correctly
    caught: Count  # strongest attempts on robust samples that are misclassified and refused


@dataclass
class Check:
    """A self-check of the evaluation."""

    id: str
    status: Status
    measured: Number | None
    threshold: Number | None
    message: str


@dataclass
class Sample:
    """One image: its label, the clean prediction, and the prediction after the attacks."""

    index: Count  # in the split
    label: Count
    clean: Count | None  # None: the logits named no class (NaN), or it was refused: an error
    adversarial: Count | None  # of the verified adversarial example; the clean prediction where there is none
    broken_by: str | None  # the first attack of the cascade that broke it
    distance: Distance | None  # of that example, in the threat model's norm
    fooled_by: list[str] | None = None  # every attack that broke it; None where attacks were run on survivors only
    nearest: dict[str, Distance | None] | None = None  # distance that a minimum-norm attack needed, in the ball or not
    file: str | None = None  # its name in the data's folder; None of data that are no files
    target: Count | None = None  # the class that alone counts as success; None: any but the label


@dataclass
class Targeted:
    """Of attacks that aim: success is one class for each sample, and another wrong class leaves it robust."""

    target: str  # the name of a class, `random`, `least_likely`, `second`, or `one per sample`
    left_out: Count  # samples that were of that class already: no number here is about them
    reached: (
        Accuracy  # the share of the samples that are right on the clean image which the attacks bring to their target
    )


@dataclass
class CurvePoint:
    """Robust accuracy at one radius, an upper bound as at every other."""

    eps: Distance
    eps_text: str
    robust: Accuracy
    error: str = ""  # of an attack that failed here


@dataclass
class Repeated:
    """Accuracy of one pass of a random model, as the mean over repeated passes on the same images."""

    value: Share
    ci95: Interval  # for the choice of the images and for the noise
    noise95: Interval  # for the noise alone: what more passes on these images would give
    lowest: Share  # of the passes
    highest: Share

    @model_validator(mode="after")
    def _agree(self) -> "Repeated":
        need_around(self.ci95, self.value)
        need_around(self.noise95, self.value)
        between = self.lowest - SLACK <= self.value <= self.highest + SLACK
        need(
            between,
            "value",
            self.value,
            f"between the lowest and the highest pass, {self.lowest:.3g} and {self.highest:.3g}",
        )
        return self

    @classmethod
    def of(cls, right: Sequence[Sequence[bool]]) -> "Repeated":
        """right: of each pass, whether each image is classified correctly."""
        shares = [sum(one) / len(one) for one in right]
        mean, ci95, noise95 = repeated_shares(right)
        return cls(mean, list(ci95), list(noise95), min(shares), max(shares))

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"


@dataclass
class UnderNoise:
    """Of a model that is random at prediction: how often one pass is right, over passes that no attack has seen."""

    passes: Count
    draws: Count  # that the attacks averaged
    clean: Repeated
    robust: Repeated  # on the worst of the attacks, or the clean image where that is misclassified already
