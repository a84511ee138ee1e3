"""What the attacks did: each attack, self-check and sample, and accuracy over radii."""

from typing import Any

from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Accuracy
from robustcls.results.fields import Count, Distance, Number, Share, Status


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
    clean: Count | None  # None: the logits named no class (NaN), which is a wrong answer
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
