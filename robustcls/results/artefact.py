"""The manifest of an artefact: what a runtime must know of an exported model, and how it was made and checked."""

from dataclasses import field
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from robustcls.core.errors import InputError
from robustcls.results.fields import Count, Distance, Integer, Number
from robustcls.results.json_files import JsonFile

SCHEMA = "robustcls/artefact/1"
WRITER = "`robustcls export`"
MANIFEST, MODEL, REFERENCE, DRIFT = "manifest.json", "model.onnx", "reference.npz", "drift.npz"
EVALUATION = "evaluation.json"  # once the artefact was attacked


@dataclass
class File:
    """The ONNX file: float32 N,C,H,W in [0, 1] to logits N,K, normalisation inside, any batch size."""

    sha256: str
    bytes: Count
    opset: Count
    parameters: Count  # numbers that it stores, of any precision
    input: str = "images"
    output: str = "logits"


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
