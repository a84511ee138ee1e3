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
        "digits, cifar10, cifar100, svhn, fashion_mnist, folder:PATH, module:callable.  [default: the checkpoint's; a model "
        "that knows none is checked on noise]",
        metavar="SPEC",
        group="Data",
    )
    arch: str | None = option(
        None, "Architecture of a state dict, such as vgg16(width=0.25).", metavar="SPEC", group="Model"
    )
    split: Literal["train", "val", "test"] = option(
        "train", "Where the images for checks and calibration come from; test is refused.", group="Data"
    )
    prune: str | None = option(
        None,
        "Remove channels, such as channels(ratio=0.5), without training again: better is train --init --prune.",
        metavar="SPEC",
    )
    quantize: str | None = option(None, "Round to 8 bits: int8, or int8(calibrate=256).", metavar="SPEC")
    max_robust_drop: float | None = option(
        None,
        "Points of robust accuracy that 8 bits may cost on held-out training images; layers stay in floating point, most "
        "harmful first, until they do not cost more.",
        metavar="POINTS",
    )
    deploy: bool = option(False, "Write a Dockerfile and files for KServe, KEDA and Ray Serve into DIR/deploy.")
    seed: int = option(0, "Seed of everything random.", group="Runtime")
    quiet: bool = option(False, "Print results only.")
