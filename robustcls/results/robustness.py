"""Records of the attacks, the self-checks, the samples and the security curve."""

from collections.abc import Sequence
from typing import Any

from pydantic import model_validator
from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Accuracy, need_around
from robustcls.results.fields import SLACK, Count, Distance, Interval, Number, Share, Status, need
from robustcls.results.statistics import repeated_shares


@dataclass
class Attack:
    """One attack of the cascade. It was run on the samples that were still classified correctly after the earlier attacks."""

    name: str
    options: dict[str, Any]
    attacked: Count
    broken: Count
    robust_accuracy: Share  # after this attack and all earlier attacks
    seconds: Number
    forwards: Count  # forward passes, counted in images
    backwards: Count  # backward passes, counted in images
    alone: Accuracy | None = None  # accuracy under this attack alone; None if run only on remaining samples
    unique: Count | None = None  # samples that no other attack broke; None if it was run only on the remaining samples
    median_distance: Number | None = None  # median distance of the examples of the samples that it broke
    error: str = ""
    # For a minimum-norm attack, over all samples it was run on; None if no example was found for more than half of them.
    median_nearest: Number | None = None
    censored: Count | None = None  # for a minimum-norm attack: samples for which it found no adversarial example
    sampled_from: Count | None = None  # `attacked` were drawn from so many remaining samples; None: all were attacked

    @property
    def at_most(self) -> float | None:
        """The upper bound, with 95% confidence, on the share of the remaining samples that the attack would break.

        If this share were breakable, `attacked` random samples would contain none of them with probability 0.05. None if the
        attack was run on all remaining samples, or if it broke one.
        """
        if self.sampled_from is None or self.broken or not self.attacked:
            return None
        return 1 - 0.05 ** (1 / self.attacked)


@dataclass
class Rejection:
    """A detector that rejects predictions, and the results with it.

    A sample is robust if its clean image is classified correctly and accepted, and if the attacks found no image in the ball
    that is misclassified and accepted (Tramer 2021, arXiv:2107.11630). The rejection of a correct prediction is an error.
    """

    detector: str
    fpr: Share  # requested share of clean images that may be rejected
    threshold: Number  # predictions with a score above it are rejected
    held_out: Count  # number of clean images on which the threshold was chosen
    held_out_rejected: Count
    clean: Accuracy  # clean accuracy without the detector
    clean_rejected: Count  # number of evaluated clean images that are rejected
    correct_rejected: Count  # number of these that are classified correctly
    caught: Count  # strongest attempts on robust samples that are misclassified and rejected


@dataclass
class Check:
    """A self-check of the evaluation."""

    id: str
    status: Status
    measured: Number | None
    threshold: Number | None
    message: str
    found: Count | None = None  # number of samples with what the check looks for, if it counts them


@dataclass
class Sample:
    """One image: its label, the clean prediction, and the prediction after the attacks."""

    index: Count  # position in the split
    label: Count
    clean: Count | None  # predicted class of the clean image; None: no class (NaN) or rejected, which is an error
    adversarial: Count | None  # prediction for the verified example, else for the clean image
    broken_by: str | None  # the first attack of the cascade that broke it
    distance: Distance | None  # distance of that example, in the norm of the threat model
    fooled_by: list[str] | None = None  # all attacks that broke it; None if run only on remaining samples
    nearest: dict[str, Distance | None] | None = None  # distance by minimum-norm attack, in the ball or not
    file: str | None = None  # file name in the folder of the data; None if the data are not files
    target: Count | None = None  # target class; None: untargeted, any class but the label


@dataclass
class Targeted:
    """Targeted attacks: only the target class of a sample counts as success; with any other wrong class it stays robust."""

    target: str  # the name of a class, `random`, `least_likely`, `second`, or `one per sample`
    left_out: Count  # samples of the target class, which are excluded from all numbers of the evaluation
    reached: Accuracy  # samples that reached their target, of those whose clean image is classified correctly


@dataclass
class CurvePoint:
    """Robust accuracy at one radius: an upper bound."""

    eps: Distance
    eps_text: str
    robust: Accuracy
    error: str = ""  # error of an attack that failed at this radius


@dataclass
class Repeated:
    """Accuracy of a single pass of a random model: the mean over repeated passes on the same images."""

    value: Share
    ci95: Interval  # 95% interval for the choice of the images and for the noise
    noise95: Interval  # 95% interval for the noise only, with the images fixed
    lowest: Share  # lowest accuracy of a pass
    highest: Share  # highest accuracy of a pass

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
        """right: for each pass, whether each image is classified correctly."""
        shares = [sum(one) / len(one) for one in right]
        mean, ci95, noise95 = repeated_shares(right)
        return cls(mean, list(ci95), list(noise95), min(shares), max(shares))

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}]"


@dataclass
class UnderNoise:
    """For a model that is random at prediction: the accuracy of single passes with noise that no attack has seen."""

    passes: Count
    draws: Count  # number of draws that the attacks averaged
    clean: Repeated
    robust: Repeated  # on the strongest example found, or on the clean image if it is misclassified
