"""What is chosen on images that are not evaluated: the threshold of a detector."""

from collections.abc import Callable

from torch import nn

from robustcls.core.detector import HELD_OUT, Detector, make_detector
from robustcls.core.gradients import frozen
from robustcls.data.images import Images
from robustcls.evaluation.config import FPR, AttackConfig, ExplainConfig
from robustcls.runtime.stored import as_floats


def detector_of(
    options: AttackConfig | ExplainConfig, model: nn.Module, split: Callable[..., Images]
) -> Detector | None:
    """The detector that the options name, with its threshold from images of a split that is not evaluated."""
    if not isinstance(options, AttackConfig) or options.detector is None:
        return None
    held_out = split("train" if options.split == "val" else "val", n=HELD_OUT)
    with frozen(model):
        return make_detector(options.detector, options.fpr or FPR, model, as_floats(held_out.pixels))
