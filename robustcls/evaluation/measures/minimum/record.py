"""Minimum perturbations."""

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Number


@dataclass
class MinimumNorm:
    """The distance of the nearest adversarial example of a minimum-norm attack, in or out of the ball."""

    norm: str
    attack: str  # spec
    rule: str  # which samples, in words
    n: Count
    index: list[Count]  # of the samples in the split
    # An upper bound on the distance; 0 where the clean image is misclassified, None: censored.
    distance: list[Number | None]
    censored: Count  # samples without any adversarial example
    q1: Number | None = None  # quartiles over all n, censored ones counted as farther; None where one is censored
    median: Number | None = None
    q3: Number | None = None
    error: str = ""


RECORD = list[MinimumNorm]
