"""Records of what was evaluated and how: the model, the samples, the threat model and the command."""

from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Distance, Integer, Number


@dataclass
class Model:
    """The model that was evaluated."""

    name: str
    sha256: str  # digest of the checkpoint file, or of the parameters and buffers if there is no file
    arch: str = ""
    parameters: Count = 0
    input_size: list[Integer] = field(default_factory=list)  # C, H, W
    classes: list[str] = field(default_factory=list)
    note: str = ""  # which part of the output is used, and how the input is normalised; may be empty


@dataclass
class ClassMap:
    """The mapping of the data's classes to the model's outputs. Labels of samples are output numbers."""

    classes: list[str]  # class names of the data, in the order of the data
    outputs: list[Integer]  # the model's output for each of these classes
    rule: str  # how they were mapped, or what was assumed

    def renumber(self, counts: list[int]) -> list[int]:
        """Return counts per data class as counts per output, up to the highest output that a class is mapped to."""
        by_output = [0] * (max(self.outputs, default=-1) + 1)
        for output, count in zip(self.outputs, counts, strict=False):
            by_output[output] += count
        return by_output


@dataclass
class Data:
    """The samples that the model was evaluated on."""

    name: str
    split: str
    n: Count
    sha256: str  # digest of the pixels and the data's own labels of the samples
    available: Count = 0  # number of samples in the split
    sampling: str = ""  # the rule by which the n samples were selected
    note: str = ""  # remarks on the data, such as skipped files
    skipped: list[str] = field(default_factory=list)  # files that could not be read, with their names in the folder
    class_map: ClassMap | None = None  # None if the model's classes are those of the data
    estimates: str = ""  # what accuracy on the samples estimates, in words; "" if not recorded
    split_counts: list[Integer] = field(default_factory=list)  # number of samples per label in the whole split
    ids: str = ""  # SHA-256 of the sorted names of the files used, each as class/file and a line feed


@dataclass
class Mask:
    """The pixels of an image that may change."""

    name: str
    sha256: str  # digest of the size and of the pixels that may change
    pixels: Count  # number of pixels that may change
    total: Count  # number of pixels of an image


@dataclass
class Threat:
    """The threat model: what the attacker may do and what the attacker knows."""

    norm: str
    eps: Distance
    eps_text: str
    goal: str = "untargeted: any wrong label"
    knowledge: str = "white box: architecture, weights and gradients are known"
    mask: Mask | None = None  # None: every pixel may change
    eight_bit: bool = False  # examples are rounded to 8 bits before they count

    @property
    def limits(self) -> str:
        """The limits in addition to norm and radius, as text to follow them; "" for none."""
        mask = f" in {self.mask.pixels:,} of {self.mask.total:,} pixels" if self.mask else ""
        return mask + (", examples in 8 bits" if self.eight_bit else "")

    @property
    def text(self) -> str:
        """Norm and radius, such as `linf 8/255`, and further limits."""
        return f"{self.norm} {self.eps_text}{self.limits}"

    @property
    def plain(self) -> bool:
        """Whether there are no limits beyond norm and radius."""
        return not self.limits

    def same_as(self, other: "Threat") -> bool:
        """Whether both threat models have the same norm, radius and limits."""
        first, second = ((one.norm, one.eps, one.mask and one.mask.sha256, one.eight_bit) for one in (self, other))
        return first == second


@dataclass
class Service:
    """A running service that was evaluated over HTTP, with 8-bit images."""

    url: str  # URL of the model
    version: str
    queries: Count  # number of images that it answered; for a resumed evaluation, since it was resumed
    twin: str = ""  # the model whose gradients the attacks used


@dataclass
class Provenance:
    """How the evaluation was made."""

    command: str
    config: dict[str, Any]
    seed: Integer
    versions: dict[str, str]
    device: str
    commit: str
    started: str  # ISO 8601, UTC
    seconds: Number
    precision: str = ""
    batch_size: Integer = 0  # batch size that fitted into memory; 0: not known
    service: Service | None = None  # the service, if the model is one
