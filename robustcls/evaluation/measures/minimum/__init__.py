"""The distance of the nearest adversarial example, in each norm."""

from dataclasses import dataclass

from robustcls.core.config import option
from robustcls.core.measures import FEWEST, Measure, Part


@dataclass
class Options:
    minimum_n: int = option(100, "Largest number of samples for minimum perturbations; 0: none.")


MEASURE = Measure(
    text="minimum perturbations",
    order=50,
    parts={"minimum": Part(70, "Minimum perturbation", "no minimum-norm attack was run, such as --attack fmn")},
    holds=lambda norms: any(norm.distance for norm in norms),
    empty=lambda norms: "; ".join(dict.fromkeys(f"{norm.attack} failed: {norm.error}" for norm in norms if norm.error)),
    failures=lambda norms: [f"minimum perturbation, {norm.norm}: {norm.error}" for norm in norms if norm.error],
    compared=True,
    options=Options,
    count="minimum_n",
    fewest=FEWEST,
    profiles={"quick": {"minimum_n": 0}, "full": {"minimum_n": 500}},
)
