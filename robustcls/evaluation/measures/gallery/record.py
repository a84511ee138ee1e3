"""Example images for the report, with their attribution maps."""

from dataclasses import field

from pydantic.dataclasses import dataclass

from robustcls.results.arrays import Array
from robustcls.results.fields import Integer, Ranked


@dataclass
class Map:
    """An attribution map, H,W."""

    method: str
    role: str  # clean | adversarial | adversarial_class
    target: Integer  # the class that the map explains
    values: Array
    note: str = ""  # e.g. the grid of GradCAM


@dataclass
class Example:
    """One image of the gallery, for the sample with the same index."""

    index: Integer
    outcome: str  # broken | survived | clean_error
    clean: Array  # C,H,W uint8
    adversarial: Array  # C,H,W uint8; the strongest attempt if the sample survived
    perturbation: Array  # C,H,W int8, exact to 1/127 of its largest value
    clean_top: list[Ranked]  # [class, probability], highest first
    adversarial_top: list[Ranked]
    maps: list[Map] = field(default_factory=list)


@dataclass
class Gallery:
    """Examples of each outcome."""

    rule: str  # how the examples were drawn, in words
    examples: list[Example]


RECORD = Gallery
