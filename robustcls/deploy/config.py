"""The options of `robustcls export`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from robustcls.core.config import option
from robustcls.core.options import DataOptions, NormalisationOptions, ThreatOptions


@dataclass(kw_only=True)
class ExportConfig(DataOptions, NormalisationOptions, ThreatOptions):
    GROUP: ClassVar[str] = "Output"

    data: str | None = option(
        None,
        "digits, cifar10, cifar100, svhn, fashion_mnist, folder:PATH, module:callable.  [default: the checkpoint's data; a "
        "model without data is checked on noise]",
        metavar="SPEC",
        group="Data",
    )
    arch: str | None = option(
        None, "Architecture of a state dict, such as vgg16(width=0.25).", metavar="SPEC", group="Model"
    )
    split: Literal["train", "val", "test"] = option(
        "train", "Split of the images for checks and calibration; test is refused.", group="Data"
    )
    prune: str | None = option(
        None,
        "Remove channels without training again, such as channels(ratio=0.5); train --init --prune loses less accuracy.",
        metavar="SPEC",
    )
    quantize: str | None = option(None, "Quantise to 8 bits: int8, or int8(calibrate=256).", metavar="SPEC")
    max_robust_drop: float | None = option(
        None,
        "Largest loss of robust accuracy by quantisation, in percentage points, on held-out training images. Layers go back to "
        "floating point, most harmful first, until the loss is within it.",
        metavar="POINTS",
    )
    deploy: bool = option(False, "Write a Dockerfile and files for KServe, KEDA and Ray Serve into DIR/deploy.")
    seed: int = option(0, "Seed of all random numbers.", group="Runtime")
    quiet: bool = option(False, "Print results only.")
