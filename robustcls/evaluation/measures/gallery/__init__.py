"""Examples of each outcome with their attribution maps."""

from dataclasses import dataclass

from robustcls.core.config import option
from robustcls.core.measures import Measure, Part


@dataclass
class Options:
    examples: int = option(24, "Number of examples in the gallery.")


MEASURE = Measure(
    text="attribution maps of examples",
    order=20,
    parts={"gallery": Part(110, "Gallery", "this evaluation contains no images")},
    holds=lambda gallery: bool(gallery.examples),
    options=Options,
    count="examples",
    profiles={"quick": {"examples": 12}, "full": {"examples": 40}},
    draws_maps=True,
)
