"""The manifest of an artefact: what a runtime must know about an exported model, and how it was made and checked."""

import math
from dataclasses import field
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from robustcls.core.errors import InputError
from robustcls.results.fields import Count, Distance, Integer, Number, need
from robustcls.results.json_files import JsonFile

SCHEMA = "robustcls/artefact/1"
WRITER = "`robustcls export`"
MANIFEST, MODEL, REFERENCE, DRIFT = "manifest.json", "model.onnx", "reference.npz", "drift.npz"
MOST_TOLERANCE = (
    0.25  # share of the largest logit; a larger tolerance would accept a file that does not match its reference
)
TRAINED: dict[str, Any] = {"data": (str, NoneType), "seed": int, "data_dir": (str, NoneType)}
EVALUATION = "evaluation.json"  # exists after the artefact was attacked


def is_schema(name: object) -> bool:
    """Whether this is the schema of an artefact manifest, of any version."""
    return isinstance(name, str) and name.rpartition("/")[0] == SCHEMA.rpartition("/")[0]


@dataclass
class File:
    """The ONNX file. It maps float32 N,C,H,W in [0, 1] to logits N,K for any batch size and includes the normalisation."""

    sha256: str
    bytes: Count
    opset: Count
    parameters: Count  # number of stored weights and biases, of any precision
    input: str = "images"
    output: str = "logits"
    kind: str = ""  # fp32, or int8 if it has quantisation operators; "" in early artefacts


@dataclass
class Decoding:
    """How an encoded image is converted to the pixels for the model, as in data/folders."""

    height: Count
    width: Count
    channels: Count
    colour: str = ""  # Pillow mode to which it is converted before resizing
    resize: str = ""
    crop: str = ""
    rules: dict[str, str] = field(default_factory=dict)  # orientation, alpha, frames, cmyk, deep pixels ...
    white: Number | None = None  # value of white in 16-bit and float images; None: 65535 and 1.0
    formats: list[str] = field(default_factory=list)  # Pillow names
    shorter_side: Count | None = None  # length of the shorter side before the centre crop; None: minimal
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"  # Pillow name


@dataclass
class Source:
    """The model that was exported."""

    name: str
    sha256: str  # digest of its file, or of its parameters and buffers
    arch: str = ""
    parameters: Count = 0


@dataclass
class Calibration:
    """The images on which the ranges of activations were measured. Test images are never used."""

    data: str
    split: str
    n: Count
    sha256: str  # digest of the pixels as float32
    adversarial: Count = 0  # number of the n images that are adversarial examples of the source


@dataclass
class Quantization:
    """How the file was quantised to 8 bits."""

    spec: str  # `int8(...)` with every option
    calibration: Calibration
    float_layers: list[str] = field(default_factory=list)  # nodes that stay in floating point
    same_label: Number = 0.0  # share of the calibration images with the same predicted class as the source
    robust_drop: Number | None = None  # measured for --max-robust-drop, on held-out training images, in points
    robust_drop_bound: Number | None = None
    robust_drop_n: Count = 0


@dataclass
class Checked:
    """The comparison of the floating-point file with its source by `robustcls.deploy.export.check_file`, and the machine."""

    images: Count
    batch_sizes: list[Integer]
    largest_difference: Distance  # between logits
    largest_logit: Distance
    cpu: list[str] = field(default_factory=list)  # processor flags that affect 8-bit arithmetic
    versions: dict[str, str] = field(default_factory=dict)
    ties: Count = 0  # images with two largest logits equal up to rounding; classes not compared


@dataclass
class Manifest(JsonFile):
    """The file manifest.json of an artefact: `Manifest.of(folder)`."""

    WRITER = WRITER

    name: str
    file: File
    classes: list[str]
    decoding: Decoding
    source: Source
    checked: Checked
    created: str  # ISO 8601, UTC
    reference_tolerance: Distance = 0.0  # deviation of logits allowed on another CPU, as a share of the largest logit
    quantization: Quantization | None = None
    pruning: str = ""  # the spec, if channels were removed
    threat: dict[str, Any] = field(default_factory=dict)  # norm and eps of training, if known
    trained: dict[str, Any] = field(default_factory=dict)  # data, seed ... of training, if known
    schema: str = SCHEMA

    def check(self) -> None:
        """Raise ValueError if a field contradicts other fields or is unusable."""
        need(bool(self.classes), "classes", self.classes, "a list of names")
        need(
            self.reference_tolerance <= MOST_TOLERANCE, "reference_tolerance", self.reference_tolerance, "a small share"
        )
        need(min(self.input_size) > 0, "decoding", self.input_size, "a size of images, C,H,W")
        side, larger = self.decoding.shorter_side, max(self.input_size[1:])
        need(side is None or side >= larger, "decoding.shorter_side", side, f"{larger} or more")
        if self.threat:
            norm, eps = self.threat.get("norm"), self.threat.get("eps")
            need(norm in ("linf", "l2", "l1"), "threat.norm", norm, "linf, l2 or l1")
            need(isinstance(eps, (int, float)) and 0 < eps < math.inf, "threat.eps", eps, "a radius")
        trained = {"config": {}} | self.trained
        need(isinstance(trained["config"], dict), "trained.config", trained["config"], "an object")
        for name, kinds in TRAINED.items():
            if name in trained:
                need(
                    isinstance(trained[name], kinds), f"trained.{name}", trained[name], "what a training says of itself"
                )
        limit = trained["config"].get("limit_train")
        need(limit is None or type(limit) is int, "trained.config.limit_train", limit, "a number of images")

    @property
    def kind(self) -> str:
        """fp32 or int8"""
        return self.file.kind or ("int8" if self.quantization else "fp32")

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return self.decoding.channels, self.decoding.height, self.decoding.width

    @classmethod
    def of(cls, folder: str | Path) -> "Manifest":
        """Load the manifest of a folder. Raises InputError if it is no artefact, is incomplete, or has a newer schema."""
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise InputError(f"{folder} is no artefact: it has no {MANIFEST}: give a folder that {WRITER} wrote")
        manifest = cls.load(path)
        for name in (MODEL, REFERENCE):
            if not (path.parent / name).is_file():
                raise InputError(f"{folder} has no {name}: it is half an artefact: export the model again")
        return manifest
