"""What was evaluated, and how: the model, the samples, the threat model, the command."""

from dataclasses import field
from typing import Any

from pydantic.dataclasses import dataclass

from robustcls.results.fields import Count, Distance, Integer, Number


@dataclass
class Model:
    """The model that was evaluated."""

    name: str
    sha256: str  # of the checkpoint file, or of the parameters and buffers where there is no file
    arch: str = ""
    parameters: Count = 0
    input_size: list[Integer] = field(default_factory=list)  # C, H, W
    classes: list[str] = field(default_factory=list)
    note: str = ""  # what was taken of its output, and what it sees of the pixels; may be empty


@dataclass
class ClassMap:
    """Which output of the model each class of the data is; labels of samples are numbers of outputs."""

    classes: list[str]  # of the data, in its own order
    outputs: list[Integer]
    rule: str  # how they were mapped, or what was assumed

    def renumber(self, counts: list[int]) -> list[int]:
        """Counts by class of the data as counts by output, to the last output that a class is."""
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
    sha256: str  # of the pixels and the data's own labels that were used
    available: Count = 0  # how many the split holds
    sampling: str = ""  # the rule by which n of them were chosen
    note: str = ""  # what a reader must know about them, such as skipped files
    skipped: list[str] = field(default_factory=list)  # files that could not be read, by their names in the folder
    class_map: ClassMap | None = None  # None where the model's classes are the data's
    estimates: str = ""  # what accuracy on them estimates, in words; "" where the evaluation does not say
    split_counts: list[Integer] = field(default_factory=list)  # samples in the whole split, by label
    ids: str = ""  # SHA-256 of the sorted names of the files that were used, class/file and a line feed each


@dataclass
class Mask:
    """The pixels of an image that may change."""

    name: str
    sha256: str  # of the size and of what may change
    pixels: Count  # that may change
    total: Count  # of an image


@dataclass
class Threat:
    """What the attacker may do, and knows."""

    norm: str
    eps: Distance
    eps_text: str
    goal: str = "untargeted: any wrong label"
    knowledge: str = "white box: architecture, weights and gradients are known"
    mask: Mask | None = None  # None: every pixel may change
    eight_bit: bool = False  # an example counts as the image in 8 bits that it is rounded to

    @property
    def limits(self) -> str:
        """What limits the attacker beside norm and radius, to be put behind them; "" for nothing."""
        mask = f" in {self.mask.pixels:,} of {self.mask.total:,} pixels" if self.mask else ""
        return mask + (", examples in 8 bits" if self.eight_bit else "")

    @property
    def text(self) -> str:
        """`linf 8/255`, and what else limits the attacker."""
        return f"{self.norm} {self.eps_text}{self.limits}"

    @property
    def plain(self) -> bool:
        """Whether norm and radius say all."""
        return not self.limits

    def same_as(self, other: "Threat") -> bool:
        """Whether the attacker may do the same."""
        ours, theirs = ((one.norm, one.eps, one.mask and one.mask.sha256, one.eight_bit) for one in (self, other))
        return ours == theirs


@dataclass
class Service:
    """A running service that was evaluated over HTTP, on images in 8 bits."""

    url: str  # of the model
    version: str
    queries: Count  # images that it answered; of an evaluation that was resumed, since then
    twin: str = ""  # the model whose gradients the attacks followed


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
    batch_size: Integer = 0  # images at a time that memory held in the end; 0: not known
    service: Service | None = None  # where the model is one
