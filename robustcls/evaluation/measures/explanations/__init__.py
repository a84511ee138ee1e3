"""Whether attribution maps can be trusted: their stability under attack, and their sanity."""

from dataclasses import dataclass

from robustcls.core.config import option
from robustcls.core.measures import Measure, Part

HINT = "run robustcls report --model ... or robustcls explain"


@dataclass
class Options:
    maps_n: int = option(50, "Largest number of samples whose attribution maps are compared and tested; 0: none.")


MEASURE = Measure(
    text="measures of maps",
    order=30,
    parts={
        "stability": Part(120, "Attribution stability", f"attribution maps were not compared: {HINT}"),
        "sanity": Part(130, "Attribution sanity", f"attribution maps were not tested: {HINT}"),
    },
    holds=lambda explanations: bool(explanations.methods),
    empty=lambda explanations: (
        "no attribution method supports this model"
        if explanations.n
        else "the attack changed no sample that the model classifies correctly"
    ),
    options=Options,
    count="maps_n",
    profiles={"quick": {"maps_n": 10}, "full": {"maps_n": 200}},
    draws_maps=True,
)
