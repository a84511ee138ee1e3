"""An exported file beside the model that it was made of."""

from dataclasses import field

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Distance, Number, Share
from robustcls.results.records import Accuracy


@dataclass
class Latency:
    """Milliseconds that a batch takes on one thread, of random images; of the original by eager PyTorch."""

    batch: Count
    runs: Count
    p50: Distance
    p99: Distance
    original_p50: Distance | None = None
    original_p99: Distance | None = None


@dataclass
class Runtime:
    """What the file takes to run."""

    bytes: Count
    parameters: Count
    macs: Count  # multiply-adds of an image; 0 where they could not be counted
    latency: list[Latency]
    cpu: list[str] = field(default_factory=list)  # flags that matter to 8-bit arithmetic
    original_bytes: Count | None = None  # of its parameters and buffers
    original_parameters: Count | None = None
    original_macs: Count | None = None


@dataclass
class Agreement:
    """Labels of the file beside those of its original, on clean images."""

    n: Count
    same: Count
    lost: dict[str, Count]  # by class: right before, wrong in the file
    gained: dict[str, Count]  # by class: wrong before, right in the file
    ties: Count  # samples whose two largest logits in the file are equal
    largest_difference: Distance  # of a logit
    twin_same: Count | None = None  # samples with the file's label in its PyTorch graph, whose gradients attacks follow


@dataclass
class Side:
    """One of the two models under the same sets of attacks; n correct of all samples attacked."""

    clean: Accuracy
    white_box: Accuracy  # after the evaluation's attacks on this model
    transfer: Accuracy  # after examples of the other model alone, also such as were made without early stop
    square: Accuracy  # after the white box, then Square on what was left of either model
    union: Accuracy  # after all of them
    ece: Share | None = None
    ece_adversarial: Share | None = None


@dataclass
class Maps:
    """How alike the attribution maps of the two models are, as median Spearman rank correlations."""

    method: str
    n: Count
    between: Number  # file and original, the same image
    noise: Number  # the original with itself, on images with noise of the threat model's size
    random: Number  # the original with its own maps, pixels shuffled


@dataclass
class Artefact:
    """What runs, beside its original. Differences are the file's accuracy minus its original's, on the same samples."""

    runtime: Runtime
    quantization: str = ""  # spec; empty for a file in floating point
    source: str = ""  # name of the original
    rule: str = ""  # which samples and attacks
    agreement: Agreement | None = None
    file: Side | None = None
    original: Side | None = None
    clean_difference: Number | None = None
    clean_ci95: list[Number] = field(default_factory=list)
    robust_difference: Number | None = None  # of the unions
    robust_ci95: list[Number] = field(default_factory=list)
    noise_flips: Count | None = None  # samples whose verdict another seed of the same attacks on the original changes
    masked: Count | None = None  # samples of the file that transfer or Square broke and its white box did not
    masked_original: Count | None = None  # likewise of the original: the attacks' own noise
    maps: Maps | None = None


RECORD = Artefact
