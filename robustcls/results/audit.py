"""Records of an audit of a data set: the file audit.json of `robustcls audit`."""

from dataclasses import field
from typing import ClassVar

from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Accuracy
from robustcls.results.arrays import Array
from robustcls.results.fields import Count, Integer, Number, Share
from robustcls.results.json_files import JsonFile
from robustcls.results.subject import Data, Provenance, Threat

AUDIT_SCHEMA = "robustcls/audit/1"
MOST_ODDS = 1000  # larger odds are written as "over 1000"
LABEL_ERROR, TWO_LABELS, BOUNDARY, UNSURE = "label error", "two labels", "near the boundary", "unsure"


@dataclass
class Finding:
    """An image of the training split that a person should check."""

    index: Count  # position in the training split
    label: Count  # its label, a class number
    guess: Count  # class number predicted by the models; near the boundary, that of the nearest adversarial example
    reason: str  # label error | two labels | near the boundary | unsure
    # Probability of the label minus the largest other one; near the boundary, the distance; for two labels, the likeness.
    score: Number
    digest: str  # digest of its pixels, 16 hexadecimal digits
    file: str | None = None  # file name below the folder, if the data are files
    picture: Array | None = None  # C,H,W in [0, 1], reduced in size if it is large
    odds: Number | None = None  # label error: largest probability of another class / probability of the label

    @property
    def rank(self) -> float:
        """The ranking value within its reason: descending odds for label errors, ascending score for others."""
        return self.score if self.odds is None else self.odds

    @property
    def said(self) -> str:
        """The ranking value in words."""
        if self.odds is None:
            return f"{self.score:.3g}"
        odds = f"over {MOST_ODDS}" if self.odds > MOST_ODDS else f"{self.odds:.{int(self.odds < 10)}f}"
        return f"odds {odds}:1 against the label"


@dataclass
class Pair:
    """How often images of one label are predicted as another class."""

    label: Count
    guess: Count
    clean: Accuracy  # "correct" counts the images with `label` that are predicted as `guess`
    attacked: Accuracy | None = None  # the same for the attacked images


@dataclass
class Copy:
    """A member of a group of duplicates."""

    split: str
    index: Count  # position in the split
    label: Count
    file: str | None = None


@dataclass
class Duplicates:
    """A group of identical or nearly identical images."""

    exact: bool  # whether all are identical pixel by pixel
    likeness: Share  # smallest cosine similarity of their detail; 1 for exact duplicates
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
    """The file audit.json: findings about the training split, and duplicates in all splits."""

    WRITER: ClassVar[str] = "`robustcls audit`"

    data: Data  # the training split, including images that training holds out
    classes: list[str]
    folds: Count
    accuracy: Accuracy  # accuracy of out-of-fold predictions with respect to the present labels
    issues: list[Finding]  # label errors by confident learning, the most suspicious first
    thresholds: list[
        Number | None
    ]  # per class: its mean probability on images with its label; None without such images
    joint: list[list[Integer]]  # number of images by label and by confident class
    pairs: list[Pair]  # confusions (off the diagonal), the most frequent first
    boundary: list[Finding]  # correctly classified images, by distance to the nearest adversarial example found
    suggestions: list[Finding]  # what a person should check next, in this order
    duplicates: list[Duplicates]
    provenance: Provenance
    arch: str = ""  # architecture of the fold models; "" for linear classifiers on `features`
    features: str = ""  # pretrained network of linear fold models; "" for models that were trained from scratch
    features_sha256: str = ""  # of its file; "" without a file
    penalty: Number | None = None  # weight of the squared norm, beside the mean log loss, of the linear classifiers
    epochs: list[Integer] = field(default_factory=list)  # training epochs of each fold; empty for linear classifiers
    attack: str = ""  # attack on the fold models, for `pairs`; "" for none
    attacked: Count = 0  # number of attacked images
    minimum: str = ""  # the attack that measured distances; "" for none
    threat: Threat | None = None
    searched: list[str] = field(default_factory=list)  # splits in which duplicates were searched for
    notes: list[str] = field(default_factory=list)  # remarks for the reader
    schema: str = AUDIT_SCHEMA

    def name_of(self, finding: Finding) -> str:
        return finding.file or str(finding.index)
