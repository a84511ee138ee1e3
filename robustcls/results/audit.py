"""What an audit found in a data set: the file audit.json of `robustcls audit`."""

from dataclasses import field
from typing import ClassVar

from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Accuracy
from robustcls.results.arrays import Array
from robustcls.results.fields import Count, Integer, Number, Share
from robustcls.results.json_files import JsonFile
from robustcls.results.subject import Data, Provenance, Threat

AUDIT_SCHEMA = "robustcls/audit/1"
MOST_ODDS = 1000  # that are told apart in words
LABEL_ERROR, TWO_LABELS, BOUNDARY, UNSURE = "label error", "two labels", "near the boundary", "unsure"


@dataclass
class Finding:
    """An image of the train split that a person should look at."""

    index: Count  # its position in the train split
    label: Count  # number of the class that it carries
    guess: Count  # number of the class that the models take it for; near the boundary, of the nearest example
    reason: str  # label error | two labels | near the boundary | unsure
    score: Number  # probability of the label less the largest other; near the boundary the distance; of two labels the likeness
    digest: str  # of its pixels, 16 hex digits
    file: str | None = None  # its name below the folder, of data that are files
    picture: Array | None = None  # C,H,W in [0, 1], made smaller where it is large
    odds: Number | None = (
        None  # of a label error: largest probability of another class / that of the label; not in older files
    )

    @property
    def rank(self) -> float:
        """What it is ranked by among those of its reason: label errors by falling odds, others by their rising score."""
        return self.score if self.odds is None else self.odds

    @property
    def said(self) -> str:
        """What it is ranked by, in words."""
        if self.odds is None:
            return f"{self.score:.3g}"
        odds = f"over {MOST_ODDS}" if self.odds > MOST_ODDS else f"{self.odds:.{int(self.odds < 10)}f}"
        return f"odds {odds}:1 against the label"


@dataclass
class Pair:
    """How often images of one label are taken for another class."""

    label: Count
    guess: Count
    clean: Accuracy  # "correct" counts the images taken for `guess`, of all that carry `label`
    attacked: Accuracy | None = None  # likewise of those that were attacked


@dataclass
class Copy:
    """A member of a group of duplicates."""

    split: str
    index: Count  # position in the split
    label: Count
    file: str | None = None


@dataclass
class Duplicates:
    """Images that are the same, or nearly."""

    exact: bool  # pixel for pixel, all of them
    likeness: Share  # the least cosine of their detail; 1 for exact ones
    images: list[Copy]

    @property
    def across(self) -> bool:
        """Whether they lie in more than one split."""
        return len({image.split for image in self.images}) > 1

    @property
    def two_labels(self) -> bool:
        return len({image.label for image in self.images}) > 1


@dataclass
class Audit(JsonFile):
    """The file audit.json: findings about the train split alone; of other splits only what is a duplicate."""

    WRITER: ClassVar[str] = "`robustcls audit`"

    data: Data  # the train split, with what training holds out of it
    classes: list[str]
    folds: Count
    accuracy: Accuracy  # of out-of-fold predictions, by the labels as they are
    issues: list[Finding]  # label errors by confident learning, the most suspicious first
    thresholds: list[Number | None]  # of each class: mean probability on images that carry its label; None for none
    joint: list[list[Integer]]  # images by label and by confident class
    pairs: list[Pair]  # off the diagonal, the most frequent first
    boundary: list[Finding]  # correctly classified, by the distance of the nearest example that an attack found
    suggestions: list[Finding]  # what to look at next, in this order
    duplicates: list[Duplicates]
    provenance: Provenance
    arch: str = ""  # of the fold models
    epochs: list[Integer] = field(default_factory=list)  # of each fold
    attack: str = ""  # on the fold models, for pairs; "" for none
    attacked: Count = 0  # images
    minimum: str = ""  # the attack that measured distances; "" for none
    threat: Threat | None = None
    searched: list[str] = field(default_factory=list)  # splits in which duplicates were looked for
    notes: list[str] = field(default_factory=list)  # what a reader must know
    schema: str = AUDIT_SCHEMA

    def name_of(self, finding: Finding) -> str:
        return finding.file or str(finding.index)
