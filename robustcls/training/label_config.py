"""The options of `robustcls label`."""

from dataclasses import dataclass
from typing import ClassVar

from robustcls.core.config import option
from robustcls.core.options import REST, DataOptions, DeviceOptions, NormalisationOptions


@dataclass(kw_only=True)
class LabelConfig(DataOptions, NormalisationOptions, DeviceOptions):
    """The options of `robustcls label`."""

    GROUP: ClassVar[str] = "Runtime"

    data: str | None = option(
        REST,
        "Images without labels: folder:DIR, with all images below it; another data set, whose labels are not read; or rest, "
        "the images that --limit-train left out of the checkpoint's training.",
        metavar="SPEC",
        group="Data",
    )
    arch: str | None = option(
        None, "Architecture of a state dict, such as vgg16(width=0.25).", metavar="SPEC", group="Model"
    )
