"""Security curves in norms other than that of the threat model."""

from dataclasses import dataclass

from robustcls.core.config import option
from robustcls.core.measures import FEWEST, Measure, Part


@dataclass
class Options:
    curves_n: int = option(100, "Largest number of samples for security curves in other norms; 0: none.")


MEASURE = Measure(
    text="security curves in other norms",
    order=40,
    parts={  # shown beside the curve in the norm of the threat model
        "other_curves": Part(41, "Security curves in other norms", "no other norm was attacked"),
    },
    options=Options,
    count="curves_n",
    fewest=FEWEST,
    profiles={"quick": {"curves_n": 0}, "full": {"curves_n": 500}},
)
