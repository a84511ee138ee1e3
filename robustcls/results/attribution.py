"""Measures of attribution maps, and the file that `robustcls explain` writes."""

from dataclasses import field
from typing import ClassVar

from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Spread
from robustcls.results.fields import Count, Integer, Number
from robustcls.results.json_files import JsonFile
from robustcls.results.robustness import Check
from robustcls.results.subject import Data, Model, Provenance, Threat

EXPLANATION_SCHEMA = "robustcls/explanation/1"


@dataclass
class Likeness:
    """The similarity of the clean image's map to another map of the same class."""

    against: str  # the other map: adversarial | benign_noise | random_map
    label: str  # whether the attack kept or flipped the label: kept | flipped; "" for the controls
    n: Count
    measures: dict[str, Spread] = field(default_factory=dict)  # spearman, top_k, top_k_tolerant, ssim, cosine


@dataclass
class MethodMeasures:
    """The measures of one attribution method."""

    method: str  # the spec
    note: str  # remarks for readers of the maps, such as baseline and steps
    images_per_second: Number
    likeness: list[Likeness] = field(default_factory=list)
    quality: dict[str, Spread] = field(default_factory=dict)  # infidelity, sensitivity_max, gini, insertion, ...
    checks: list[Check] = field(default_factory=list)  # completeness, parameter_randomisation, insertion, ...


@dataclass
class Explanations:
    """Stability and sanity checks of attribution maps, for all methods on the same samples."""

    rule: str  # how the samples were selected, in words
    attack: str  # spec of the attack that produced the adversarial images
    n: Count  # number of samples whose maps were compared; the model classifies them correctly
    flipped: Count  # number of these samples that the attack made misclassified
    quality_n: Count  # number of samples for quality measures and sanity checks
    seed: Integer
    methods: list[MethodMeasures] = field(default_factory=list)


@dataclass
class Measures(JsonFile):
    """The file measures.json of `robustcls explain`."""

    WRITER: ClassVar[str] = "`robustcls explain`"

    model: Model
    data: Data
    threat: Threat
    explanations: Explanations
    provenance: Provenance
    schema: str = EXPLANATION_SCHEMA
    files: list[str] = field(default_factory=list)  # file names of all explained samples, in the order of maps.npz
