"""What was measured of attribution maps, and the file that `robustcls explain` writes."""

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
    """How like the map of the clean image is to another map of the same class."""

    against: str  # what the other map is of: adversarial | benign_noise | random_map
    label: str  # kept | flipped by the attack; "" for the controls
    n: Count
    measures: dict[str, Spread] = field(default_factory=dict)  # spearman, top_k, top_k_tolerant, ssim, cosine


@dataclass
class MethodMeasures:
    """What was measured of one attribution method."""

    method: str  # the spec
    note: str  # what a reader of its maps must know, such as baseline and steps
    images_per_second: Number
    likeness: list[Likeness] = field(default_factory=list)
    quality: dict[str, Spread] = field(default_factory=dict)  # infidelity, sensitivity_max, gini, insertion, ...
    checks: list[Check] = field(default_factory=list)  # completeness, parameter_randomisation, insertion, ...


@dataclass
class Explanations:
    """Stability and sanity of attribution maps over the same samples."""

    rule: str  # which samples, in words
    attack: str  # the spec of the attack that made the adversarial images
    n: Count  # samples whose maps were compared: those that the model classifies correctly
    flipped: Count  # of these, how many the attack gave another label
    quality_n: Count  # samples on which quality and sanity were measured
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
    files: list[str] = field(default_factory=list)  # of all samples that were explained, in the order of maps.npz
