"""What an evaluation found: dataclasses, and versioned JSON both ways.

The report, the gate and the comparison see these records alone; nothing here imports torch.
"""

import base64
import math
import statistics
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from robustcls.core.errors import InputError
from robustcls.results.consistency import check_consistent
from robustcls.results.json_files import build, parse, read, to_json, write_json
from robustcls.results.statistics import wilson

if TYPE_CHECKING:
    import numpy as np

SCHEMA = "robustcls/evaluation/1"
EXPLANATION_SCHEMA = "robustcls/explanation/1"
ATTACK, EXPLAIN = "`robustcls attack`", "`robustcls explain`"  # who writes the files
LARGEST_ARRAY = 1 << 26  # values; more in a file is damage or malice


@dataclass
class Model:
    """The model that was judged."""

    name: str
    sha256: str  # of the checkpoint file, or of the parameters and buffers where there is no file
    arch: str = ""
    parameters: int = 0
    input_size: list[int] = field(default_factory=list)  # C, H, W
    classes: list[str] = field(default_factory=list)
    note: str = ""  # what was taken of its output, and what it sees of the pixels; since it is kept, may be empty


@dataclass
class ClassMap:
    """Which output of the model each class of the data is; labels of samples are numbers of outputs."""

    classes: list[str]  # of the data, in its own order
    outputs: list[int]
    rule: str  # how they were mapped, or what was assumed

    def renumber(self, counts: list[int]) -> list[int]:
        """Counts by class of the data as counts by output, to the last output that a class is."""
        found = [0] * (max(self.outputs, default=-1) + 1)
        for output, count in zip(self.outputs, counts, strict=False):
            found[output] += count
        return found


@dataclass
class Data:
    """The samples it was judged on."""

    name: str
    split: str
    n: int
    sha256: str  # of the pixels and the data's own labels that were used
    available: int = 0  # how many the split holds
    sampling: str = ""  # the rule by which n of them were chosen
    note: str = ""  # what a reader must know about them, such as skipped files
    skipped: list[str] = field(default_factory=list)  # files that could not be read, by their names in the folder
    class_map: ClassMap | None = None  # None where the model's classes are the data's; later than earlier evaluations
    estimates: str = ""  # what accuracy on them estimates, in words; "" where the evaluation does not say
    split_counts: list[int] = field(default_factory=list)  # samples in the whole split, by label


@dataclass
class Threat:
    norm: str
    eps: float
    eps_text: str
    goal: str = "untargeted: any wrong label"
    knowledge: str = "white box: architecture, weights and gradients are known"


@dataclass
class Accuracy:
    """correct of total, with the 95% Wilson interval."""

    correct: int
    total: int
    accuracy: float
    ci95: list[float]
    kind: str = ""

    @classmethod
    def of(cls, correct: int, total: int, kind: str = "") -> "Accuracy":
        return cls(correct, total, correct / total if total else 0.0, list(wilson(correct, total)), kind)

    @property
    def value(self) -> float:
        """The accuracy, as an Estimate calls it."""
        return self.accuracy


@dataclass
class Estimate:
    """A number in [0, 1] that is no share of a count, with its 95% interval."""

    value: float
    ci95: list[float]


@dataclass
class Balanced:
    """Balanced accuracy: the mean of the classes' accuracies, over the classes that have samples."""

    num_classes: int  # that have samples
    clean: Estimate
    robust: Estimate
    of_classes: int = 0  # that the data has; 0 where the evaluation does not say

    @property
    def over(self) -> str:
        """`over 1 of 2 classes` where some class has no sample, so that nothing is known of it; else ""."""
        return f"over {self.num_classes:,} of {self.of_classes:,} classes" if self.num_classes < self.of_classes else ""


@dataclass
class Rates:
    """How two classes are told apart; None where a class has no sample, or the scores were not kept."""

    sensitivity: Accuracy | None  # of the positive class
    specificity: Accuracy | None  # of the other
    auc: Estimate | None  # area under the ROC curve


@dataclass
class TwoClasses:
    """Sensitivity, specificity and ROC-AUC, on clean images and on the worst that the attacks found."""

    positive: int  # the label that sensitivity is about
    clean: Rates
    robust: Rates
    rule: str = ""  # what the attacked images and the scores are, in words
    negative: int | None = None  # the label that specificity is about; None of earlier files: the other of 0 and 1

    @property
    def other(self) -> int:
        """The label that specificity is about."""
        return 1 - self.positive if self.negative is None else self.negative


@dataclass
class Attack:
    """One attack of the cascade: it met the samples that were still right when its turn came."""

    name: str
    options: dict[str, Any]
    attacked: int
    broken: int
    robust_accuracy: float  # after this attack and all before it
    seconds: float
    forwards: int  # images passed forward, summed over the attack
    backwards: int
    alone: Accuracy | None = None  # against every sample; None where the attack met survivors only
    unique: int | None = None  # samples that no other attack broke; None likewise
    median_distance: float | None = None  # over the samples that it broke
    error: str = ""
    median_nearest: float | None = (
        None  # of a minimum-norm attack, over all that it met; None where over half are censored
    )
    censored: int | None = None  # of a minimum-norm attack: samples without any adversarial example


@dataclass
class Check:
    """A diagnostic of the numbers themselves."""

    id: str
    status: str  # pass, warn, fail, not_run
    measured: float | None
    threshold: float | None
    message: str


@dataclass
class Sample:
    """One image: its label, the clean prediction, and the prediction after the attacks."""

    index: int  # in the split
    label: int
    clean: int | None  # None: the logits named no class (NaN), which is a wrong answer
    adversarial: int | None  # of the verified adversarial example; the clean prediction where none was found
    broken_by: str | None  # the first attack of the cascade that broke it
    distance: float | None  # of that example, in the threat model's norm
    fooled_by: list[str] | None = None  # every attack that broke it; None where attacks met survivors only
    nearest: dict[str, float | None] | None = None  # distance that a minimum-norm attack needed, in the ball or not
    file: str | None = None  # its name in the data's folder; None of data that are no files


@dataclass
class CurvePoint:
    """Robust accuracy at one radius, an upper bound as at every other."""

    eps: float
    eps_text: str
    robust: Accuracy
    error: str = ""  # of an attack that broke off here


@dataclass
class Array:
    """Numbers as text: value = integer * scale, little-endian, zlib, base64."""

    shape: list[int]
    dtype: str  # uint8 or int8
    scale: float
    data: str

    @classmethod
    def encode(cls, values: "np.ndarray", dtype: str = "int8", scale: float | None = None) -> "Array":
        """Rounds values to 255 levels; without a scale, the largest magnitude becomes 127 (int8) or 255 (uint8).

        What is not finite becomes 0.
        """
        import numpy as np

        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)  # JSON has no NaN
        top = 127 if dtype == "int8" else 255
        if scale is None:
            scale = float(np.abs(values).max()) / top or 1.0
        levels = np.clip(np.rint(values / scale), -top if dtype == "int8" else 0, top).astype(dtype)
        packed = base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode()
        return cls(list(values.shape), dtype, scale, packed)

    def decode(self) -> "np.ndarray":
        """float32, of the original shape. Raises InputError where the data does not fill the shape."""
        import numpy as np

        try:
            if self.dtype not in ("uint8", "int8") or any(side < 0 for side in self.shape):
                raise ValueError
            size = math.prod(self.shape)
            if size > LARGEST_ARRAY:
                raise ValueError
            raw = zlib.decompressobj().decompress(base64.b64decode(self.data, validate=True), size + 1)
            return (np.frombuffer(raw, self.dtype).reshape(self.shape) * np.float32(self.scale)).astype(np.float32)
        except (ValueError, zlib.error):
            raise InputError(f"an array of shape {self.shape} does not hold its data: the file is damaged") from None


@dataclass
class Map:
    """An attribution map, H,W."""

    method: str
    role: str  # clean | adversarial | adversarial_class
    target: int  # the class that it explains
    values: Array
    note: str = ""  # e.g. the grid of GradCAM


@dataclass
class Example:
    """One image of the gallery. Refers to the sample with the same index."""

    index: int
    outcome: str  # broken | survived | clean_error
    clean: Array  # C,H,W uint8
    adversarial: Array  # C,H,W uint8; the strongest attempt where the sample survived
    perturbation: Array  # C,H,W int8, exact to 1/127 of its largest value
    clean_top: list[list[float]]  # [class, probability], highest first
    adversarial_top: list[list[float]]
    maps: list[Map] = field(default_factory=list)


@dataclass
class Gallery:
    rule: str  # how the examples were drawn, in words
    examples: list[Example]


@dataclass
class Spread:
    """One measure over n samples: median and quartiles; None where no sample has a value."""

    n: int
    median: float | None = None
    q1: float | None = None
    q3: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of the finite values alone: a measure that is not defined on a sample is left out of n."""
        found = sorted(value for value in map(float, values) if math.isfinite(value))
        if len(found) < 2:
            return cls(len(found), *(found * 3))
        q1, median, q3 = statistics.quantiles(found, n=4, method="inclusive")
        return cls(len(found), median, q1, q3)


@dataclass
class Likeness:
    """How like the map of the clean image is to another map of the same class."""

    against: str  # what the other map is of: adversarial | benign_noise | random_map
    label: str  # kept | flipped by the attack; "" for the controls
    n: int
    measures: dict[str, Spread] = field(default_factory=dict)  # spearman, top_k, top_k_tolerant, ssim, cosine


@dataclass
class MethodMeasures:
    """What was measured of one attribution method."""

    method: str  # the spec
    note: str  # what a reader of its maps must know, such as baseline and steps
    images_per_second: float
    likeness: list[Likeness] = field(default_factory=list)
    quality: dict[str, Spread] = field(default_factory=dict)  # infidelity, sensitivity_max, gini, insertion, ...
    checks: list[Check] = field(default_factory=list)  # completeness, parameter_randomisation, insertion, ...


@dataclass
class Explanations:
    """Stability and sanity of attribution maps over the same samples."""

    rule: str  # which samples, in words
    attack: str  # the spec of the attack that made the adversarial images
    n: int  # samples whose maps were compared: those that the model gets right
    flipped: int  # of these, how many the attack gave another label
    quality_n: int  # samples on which quality and sanity were measured
    seed: int
    methods: list[MethodMeasures] = field(default_factory=list)


@dataclass
class Measures:
    """The file measures.json of `robustcls explain`."""

    model: Model
    data: Data
    threat: Threat
    explanations: Explanations
    provenance: "Provenance"
    schema: str = EXPLANATION_SCHEMA
    files: list[str] = field(default_factory=list)  # of all samples that were explained, in the order of maps.npz

    def save(self, path: str | Path) -> None:
        write_json(path, self)

    @classmethod
    def load(cls, path: str | Path) -> "Measures":
        """Raises InputError where the file is missing or holds no measures."""
        return build(cls, parse(read(path, EXPLAIN), str(path), EXPLANATION_SCHEMA, EXPLAIN), str(path))


@dataclass
class NormCurve:
    """A security curve in one norm, on n of the samples; the threat model's own norm has `Evaluation.curve`."""

    norm: str
    attacks: list[str]  # specs, each on what the ones before left standing
    rule: str  # which samples, in words
    n: int
    points: list[CurvePoint]  # by radius, from the smallest


@dataclass
class MinimumNorm:
    """How far the nearest adversarial example is that a minimum-norm attack found, in or out of the ball."""

    norm: str
    attack: str  # spec
    rule: str  # which samples, in words
    n: int
    index: list[int]  # of the samples in the split
    distance: list[
        float | None
    ]  # an upper bound on the distance; 0 where the clean image is misclassified, None: censored
    censored: int  # samples without any adversarial example
    q1: float | None = None  # quartiles over all n, censored ones counted as farther; None where a quartile is censored
    median: float | None = None
    q3: float | None = None
    error: str = ""


@dataclass
class Bin:
    """The predictions whose confidence lies in (low, high]."""

    low: float
    high: float
    n: int
    confidence: float | None  # mean; None of an empty bin
    accuracy: float | None


@dataclass
class Reliability:
    """How far confidence, the largest softmax probability, and accuracy agree on one set of images."""

    n: int
    accuracy: float
    confidence: float  # mean
    ece: float  # expected calibration error over the bins (Guo et al. 2017, arXiv:1706.04599)
    bins: list[Bin]
    when_right: Spread  # confidence
    when_wrong: Spread


@dataclass
class Calibration:
    clean: Reliability
    adversarial: Reliability  # the worst image found of each sample
    rule: str = ""  # what the adversarial images are, in words


@dataclass
class Corruption:
    """Accuracy under one common corruption."""

    name: str
    severity: int  # 1 to 5
    accuracy: Accuracy


@dataclass
class Corruptions:
    """Accuracy under common corruptions (Hendrycks and Dietterich 2019, arXiv:1903.12261)."""

    rule: str  # which samples, in words
    source: str  # whose images: made here by the published definitions, or the published files
    n: int
    clean: Accuracy  # on the same samples; of published files, on the judged ones
    results: list[Corruption]
    mean: float | None = None  # over all results
    note: str = ""  # where what was measured differs from what was published


@dataclass
class Epoch:
    """A line of history.jsonl. Accuracies are shares; None where not measured."""

    epoch: int  # from 1
    lr: float
    train_loss: float
    train_clean: float | None
    train_robust: float | None  # under the training attack, while training
    val_clean: float | None
    val_robust: float | None
    val_fgsm: float | None
    seconds: float
    images_per_second: float
    val_seconds: float | None = None
    parts: dict[str, float] = field(default_factory=dict)  # of the objective, mean over the epoch
    event: str = ""  # what the watch over training did after this epoch
    warning: str = ""  # what is wrong with how it learns, as far as this epoch tells


@dataclass
class Chance:
    """What a model reaches that has learned nothing."""

    images: int  # validation images
    majority: float  # share of the commonest class among them


@dataclass
class Training:
    config: dict[str, Any]
    epochs: list[Epoch]
    chosen_epoch: int
    selected_by: str  # e.g. "robust accuracy on the validation split, pgd(steps=10)"
    val_attack: str = ""
    chance: Chance | None = None  # None of runs that did not record it


@dataclass
class Provenance:
    command: str
    config: dict[str, Any]
    seed: int
    versions: dict[str, str]
    device: str
    commit: str
    started: str  # ISO 8601, UTC
    seconds: float
    precision: str = ""
    batch_size: int = (
        0  # images at a time; where memory did not hold so many as were asked for, what it held; 0: not known
    )


@dataclass
class Evaluation:
    """Everything that one evaluation measured: `Evaluation.load(path)`, `evaluation.save(path)`."""

    model: Model
    data: Data
    threat: Threat
    clean: Accuracy
    robust: Accuracy
    attacks: list[Attack]
    checks: list[Check]
    samples: list[Sample]
    provenance: Provenance
    gallery: Gallery | None = None
    training: Training | None = None
    curve: list[CurvePoint] | None = None  # by radius, from the smallest
    explanations: Explanations | None = None
    other_curves: list[NormCurve] | None = None  # in other norms than the threat model's
    minimum: list[MinimumNorm] | None = None
    calibration: Calibration | None = None
    corruptions: Corruptions | None = None
    profile: str = ""  # the profile that chose what to measure
    not_run: dict[str, str] = field(default_factory=dict)  # section: why it was left out
    intended_use: str = ""  # of the model, as its owner states it
    surrogate: Model | None = None  # the model on which the examples were crafted, where that is another one
    schema: str = SCHEMA
    reduced: dict[str, str] = field(default_factory=dict)  # section: from how many samples to how many, and why
    balanced: Balanced | None = None
    two_classes: TwoClasses | None = None
    license: str = ""  # of the model, as its owner states it: an SPDX identifier

    # Of one that was just made: its evaluation.examples.Examples, in memory. No field, for no file holds them.
    examples = cast(Any, None)

    def to_json(self) -> str:
        """The JSON text: `schema` first, no NaN, ends with a newline."""
        return to_json(self)

    def save(self, path: str | Path) -> None:
        write_json(path, self)

    @classmethod
    def from_json(cls, text: str, name: str = "evaluation") -> "Evaluation":
        """Raises InputError that names the first place where the text is not an evaluation."""
        whole = parse(text, name, SCHEMA, ATTACK)
        evaluation = build(cls, whole, name)
        check_consistent(evaluation, name)
        return evaluation

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Raises InputError where the file is missing or is not an evaluation."""
        return cls.from_json(read(path, ATTACK), str(path))
