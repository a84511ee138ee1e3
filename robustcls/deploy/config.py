"""The options of `robustcls export`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.options import DataOptions, NormalisationOptions


@dataclass(kw_only=True)
class ExportConfig(DataOptions, NormalisationOptions):
    GROUP: ClassVar[str] = "Output"

    arch: str | None = option(
        None, "Architecture of a state dict, such as vgg16(width=0.25).", metavar="SPEC", group="Model"
    )
    split: Literal["train", "val", "test"] = option(
        "train", "Where the images for checks and calibration come from; test is refused.", group="Data"
    )
    quantize: str | None = option(None, "Round to 8 bits: int8, or int8(calibrate=256).", metavar="SPEC")
    seed: int = option(0, "Seed of everything random.", group="Runtime")
    quiet: bool = option(False, "Print results only.")
