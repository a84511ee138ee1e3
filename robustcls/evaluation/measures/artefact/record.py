"""An exported file beside the model that it was made of."""

from dataclasses import field

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Distance, Number, Share
from robustcls.results.records import Accuracy


@dataclass
class Latency:
    """Milliseconds that a batch of random images takes on one thread: of the file by onnxruntime, of the original by eager
    PyTorch."""

    batch: Count
    runs: Count
    p50: Distance
    p99: Distance
    original_p50: Distance | None = None
    original_p99: Distance | None = None


@dataclass
class Labels:
    """Labels of the file beside those of its original, on clean images."""

    lost: dict[str, Count]  # by class: right before, wrong in the file
    gained: dict[str, Count]  # by class: wrong before, right in the file
    ties: Count  # samples whose two largest logits in the file are equal, so that their order decides
    largest_difference: Distance  # of a logit
    ties_attacked: Count = 0  # samples that no attack broke, whose strongest attempt ties with another class
    twin_same: Count | None = None  # samples with the file's label in its PyTorch graph, whose gradients attacks follow
    moved: dict[str, Count] = field(default_factory=dict)  # by class: wrong before and in the file, with another label


@dataclass
class Side:
    """One of the two models: its size, and its accuracy under the same sets of attacks on the same samples."""

    bytes: Count  # of the file; of the original, of its parameters and buffers
    parameters: Count
    macs: Count = 0  # multiply-adds of an image; 0 where they could not be counted
    clean: Accuracy | None = None
    white_box: Accuracy | None = (
        None  # after the evaluation's attacks on this model, twice; None where it has no gradient
    )
    transfer: Accuracy | None = (
        None  # after examples of the other model alone, also such as were made without early stop
    )
    square: Accuracy | None = None  # after the white box, then Square on what was left of either model
    union: Accuracy | None = None  # after all of them
    ece: Share | None = None
    ece_adversarial: Share | None = None
    white_box_once: Accuracy | None = None  # after the first of the two; None in evaluations of earlier versions


@dataclass
class Maps:
    """How alike the attribution maps of the two models are, as median Spearman rank correlations."""

    method: str
    n: Count
    between: Number  # file and original, the same image
    noise: Number  # the original with itself, on images with noise of the threat model's size
    random: Number  # the original with its own maps, pixels shuffled


@dataclass
class Artefact(Side):
    """What runs, beside its original. Differences are the file's accuracy minus its original's, on the same samples."""

    latency: list[Latency] = field(default_factory=list)
    cpu: list[str] = field(default_factory=list)  # flags that matter to 8-bit arithmetic
    quantization: str = ""  # spec; empty for a file in floating point
    original: Side | None = None
    source: str = ""  # name of the original
    rule: str = ""  # which samples and attacks
    no_gradient: str = ""  # why the file has none, so that there is no white box and no difference under attack
    agreement: Accuracy | None = None  # samples with the same label in both
    labels: Labels | None = None
    clean_difference: Number | None = None
    clean_ci95: list[Number] = field(default_factory=list)
    difference: Number | None = None  # of the unions
    ci95: list[Number] = field(default_factory=list)
    seed_noise: Count | None = (
        None  # samples of the original that another seed of its white box broke, and the first did not
    )
    masked: Count | None = None  # samples of the file that the evaluation's attacks on it left and another set broke
    masked_original: Count | None = None  # likewise of the original: the attacks' own noise
    maps: Maps | None = None


RECORD = Artefact
