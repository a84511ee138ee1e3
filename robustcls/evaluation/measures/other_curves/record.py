"""Security curves in other norms than that of the threat model."""

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count
from robustcls.results.robustness import CurvePoint


@dataclass
class NormCurve:
    """A security curve in one norm, on n of the samples; the threat model's own norm has `Evaluation.curve`."""

    norm: str
    attacks: list[str]  # specs, each on the survivors of the ones before
    rule: str  # which samples, in words
    n: Count
    points: list[CurvePoint]  # by radius, from the smallest


RECORD = list[NormCurve]
