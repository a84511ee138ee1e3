"""Accuracy under common corruptions (Hendrycks and Dietterich 2019, arXiv:1903.12261)."""

from dataclasses import dataclass

from robustcls.core.config import option
from robustcls.core.measures import FEWEST, Measure, Part, Threshold


@dataclass
class Options:
    corruptions_n: int = option(200, "Largest number of samples for the 15 common corruptions; 0: none.")
    corruptions_from: str | None = option(None, "Folder of published corrupted images (CIFAR-10-C).", metavar="DIR")


MEASURE = Measure(
    text="common corruptions",
    order=60,
    parts={"corruptions": Part(90, "Corruptions", "no corruption was applied")},
    holds=lambda corruptions: bool(corruptions.results),
    headlines=lambda corruptions: (
        [("Mean accuracy under common corruptions", corruptions.mean)] if corruptions.mean is not None else []
    ),
    thresholds={
        "min_corruption": Threshold(
            "mean accuracy under common corruptions",
            lambda corruptions: None if corruptions.mean is None else (corruptions.mean, corruptions.n),
        )
    },
    compared=True,
    options=Options,
    count="corruptions_n",
    fewest=FEWEST,
    profiles={"quick": {"corruptions_n": 0}, "full": {"corruptions_n": 1000}},
)
