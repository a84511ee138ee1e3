"""An exported file compared with the original model that it was exported from."""

from dataclasses import field

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Distance, Number, Share
from robustcls.results.records import Accuracy


@dataclass
class Latency:
    """Milliseconds per batch of random images on one thread: the file in onnxruntime, the original in eager PyTorch."""

    batch: Count
    runs: Count
    p50: Distance
    p99: Distance
    original_p50: Distance | None = None
    original_p99: Distance | None = None


@dataclass
class Labels:
    """The predicted classes of the file compared with those of the original, on clean images. Numbers of samples."""

    lost: dict[str, Count]  # by class: only the original correct
    gained: dict[str, Count]  # by class: only the file correct
    ties: Count  # samples whose two largest logits in the file are equal
    largest_difference: Distance  # of a logit between the two models, in absolute value
    ties_attacked: Count = 0  # samples that no attack broke, although the strongest attempt reached a tie
    twin_same: Count | None = None  # samples with the same prediction by the file and by its PyTorch graph
    moved: dict[str, Count] = field(default_factory=dict)  # by class: both wrong, with different predictions


@dataclass
class Side:
    """One of the two models: its size, and its accuracy on the same samples under the same sets of attacks."""

    bytes: Count  # of the file; for the original, of its parameters and buffers
    parameters: Count
    macs: Count = 0  # multiply-adds per image; 0: could not be counted
    clean: Accuracy | None = None
    white_box: Accuracy | None = None  # under white-box attacks with two seeds; None: the model has no gradient
    transfer: Accuracy | None = None  # under adversarial images crafted on the other model, and no other attack
    square: Accuracy | None = None  # under white-box attacks, then Square
    union: Accuracy | None = None  # under all of these attacks
    ece: Share | None = None
    ece_adversarial: Share | None = None
    white_box_once: Accuracy | None = None  # under white-box attacks with the first seed; None in earlier versions


@dataclass
class Maps:
    """Median Spearman rank correlations of attribution maps, which show how similar the maps of the two models are."""

    method: str
    n: Count
    between: Number  # maps of the file and of the original for the same image
    noise: Number  # maps of the original for the image and for the image with random noise within eps
    random: Number  # maps of the original and copies of them with shuffled pixels


@dataclass
class Artefact(Side):
    """The exported file and its original. Differences are the file's accuracy minus the original's, on the same samples."""

    latency: list[Latency] = field(default_factory=list)
    cpu: list[str] = field(default_factory=list)  # flags of the processor that matter for 8-bit arithmetic
    quantization: str = ""  # spec of the quantiser; empty for a floating-point file
    original: Side | None = None
    source: str = ""  # name of the original
    rule: str = ""  # which samples and attacks, in words
    no_gradient: str = ""  # why the file has no gradient, and so no white-box attack and no difference
    agreement: Accuracy | None = None  # share of samples with the same predicted class in both models
    labels: Labels | None = None
    clean_difference: Number | None = None
    clean_ci95: list[Number] = field(default_factory=list)
    difference: Number | None = None  # of accuracy under all attacks
    ci95: list[Number] = field(default_factory=list)
    seed_noise: Count | None = None  # samples of the original that only the second seed of white-box attacks broke
    masked: Count | None = None  # samples of the file that only attacks other than the first white-box run broke
    masked_original: Count | None = None  # the same for the original: the random variation of the attacks
    maps: Maps | None = None


RECORD = Artefact
