"""Minimum perturbations."""

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Number


@dataclass
class MinimumNorm:
    """The distances of the nearest adversarial examples that a minimum-norm attack found, inside or outside the ball."""

    norm: str
    attack: str  # spec
    rule: str  # which samples, in words
    n: Count
    index: list[Count]  # of the samples in the split
    # Upper bounds; 0: the clean image is misclassified; None: censored, no example was found.
    distance: list[Number | None]
    censored: Count  # samples without any adversarial example
    q1: Number | None = None  # over all n; censored samples count as farther than all others; None: among them
    median: Number | None = None
    q3: Number | None = None
    error: str = ""


RECORD = list[MinimumNorm]
