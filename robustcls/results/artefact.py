"""The manifest of an artefact: what a runtime must know of an exported model, and how it was made and checked."""

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
MOST_TOLERANCE = 0.25  # of the largest logit: a file that is farther off has nothing to do with its reference
TRAINED: dict[str, Any] = {"data": (str, NoneType), "seed": int, "data_dir": (str, NoneType)}
EVALUATION = "evaluation.json"  # once the artefact was attacked


def is_schema(name: object) -> bool:
    """Whether a manifest with this schema is of an artefact, of whatever version."""
    return isinstance(name, str) and name.rpartition("/")[0] == SCHEMA.rpartition("/")[0]


@dataclass
class File:
    """The ONNX file: float32 N,C,H,W in [0, 1] to logits N,K, normalisation inside, any batch size."""

    sha256: str
    bytes: Count
    opset: Count
    parameters: Count  # weights and biases that it stores, of any precision
    input: str = "images"
    output: str = "logits"
    kind: str = ""  # fp32, or int8 where it holds operators of quantisation; "" in the first artefacts


@dataclass
class Decoding:
    """How an encoded image becomes the pixels that the model takes: what data/folders does."""

    height: Count
    width: Count
    channels: Count
    colour: str = ""  # to which mode of Pillow, before resizing
    resize: str = ""
    crop: str = ""
    rules: dict[str, str] = field(default_factory=dict)  # orientation, alpha, frames, cmyk, deep pixels ...
    white: Number | None = None  # of 16-bit and float images; None: 65535, and 1.0
    formats: list[str] = field(default_factory=list)  # Pillow's names
    shorter_side: Count | None = None  # resized to it before the centre is cut out; None: just as large as needed
    filter: Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"] = "bilinear"  # Pillow's


@dataclass
class Source:
    """The model that was exported."""

    name: str
    sha256: str  # of its file, or of its parameters and buffers
    arch: str = ""
    parameters: Count = 0


@dataclass
class Calibration:
    """The images on which the ranges of activations were measured. None of them is ever a test image."""

    data: str
    split: str
    n: Count
    sha256: str  # of the pixels, as float32
    adversarial: Count = 0  # how many of the n were adversarial examples of the source


@dataclass
class Quantization:
    """How the file was rounded to 8 bits."""

    spec: str  # `int8(...)` with every option
    calibration: Calibration
    float_layers: list[str] = field(default_factory=list)  # nodes that stay in floating point
    same_label: Number = 0.0  # share of the calibration images with the source's label
    robust_drop: Number | None = None  # measured for --max-robust-drop, on held-out training images, in points
    robust_drop_bound: Number | None = None
    robust_drop_n: Count = 0


@dataclass
class Checked:
    """The floating-point file beside its source, and where; as `robustcls.deploy.export.check_file` compares them."""

    images: Count
    batch_sizes: list[Integer]
    largest_difference: Distance  # of logits
    largest_logit: Distance
    cpu: list[str] = field(default_factory=list)  # flags that matter to 8-bit arithmetic
    versions: dict[str, str] = field(default_factory=dict)
    ties: Count = 0  # images whose two largest logits are within rounding: their labels were not compared


@dataclass
class Manifest(JsonFile):
    """`manifest.json` of an artefact: `Manifest.of(folder)`."""

    WRITER = WRITER

    name: str
    file: File
    classes: list[str]
    decoding: Decoding
    source: Source
    checked: Checked
    created: str  # ISO 8601, UTC
    reference_tolerance: Distance = 0.0  # of a logit, as a share of the largest: what another CPU must reproduce
    quantization: Quantization | None = None
    pruning: str = ""  # the spec, where channels were removed
    threat: dict[str, Any] = field(default_factory=dict)  # norm, eps of training, where known
    trained: dict[str, Any] = field(default_factory=dict)  # data, seed ... of training, where known
    schema: str = SCHEMA

    def check(self) -> None:
        """Raises ValueError where a field does not fit those beside it, or what is done with it."""
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
        """That of an artefact's folder. Raises InputError where it is none, is half-written, or of a newer schema."""
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise InputError(f"{folder} is no artefact: it has no {MANIFEST}: give a folder that {WRITER} wrote")
        manifest = cls.load(path)
        for name in (MODEL, REFERENCE):
            if not (path.parent / name).is_file():
                raise InputError(f"{folder} has no {name}: it is half an artefact: export the model again")
        return manifest
