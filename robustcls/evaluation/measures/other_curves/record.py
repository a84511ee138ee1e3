"""Security curves in norms other than that of the threat model."""

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count
from robustcls.results.robustness import CurvePoint


@dataclass
class NormCurve:
    """A security curve in one norm, on n of the samples. The curve in the norm of the threat model is `Evaluation.curve`."""

    norm: str
    attacks: list[str]  # specs, in order; each attacks the samples that are still robust
    rule: str  # which samples, in words
    n: Count
    points: list[CurvePoint]  # by radius, from the smallest


RECORD = list[NormCurve]
