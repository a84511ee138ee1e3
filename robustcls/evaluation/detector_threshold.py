"""The threshold of a detector, chosen on images that are not evaluated."""

from collections.abc import Callable

from torch import nn

from robustcls.core.detector import HELD_OUT, Detector, make_detector
from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.data.images import Images
from robustcls.evaluation.certify_config import CertifyConfig
from robustcls.evaluation.config import FPR, AttackConfig, ExplainConfig
from robustcls.runtime.stored import as_floats


def detector_of(
    options: AttackConfig | ExplainConfig | CertifyConfig,
    model: nn.Module,
    split: Callable[..., Images],
    evaluated: Images,
) -> Detector | None:
    """Return the detector that the options name, with its threshold chosen on another split than the evaluated one.

    Raises InputError if the data gives the same images for both splits, as a folder with its own option `split` does.
    """
    if not isinstance(options, AttackConfig) or options.detector is None:
        return None
    held_out = split("train" if options.split == "val" else "val", n=HELD_OUT)
    shared = set(held_out.files or ()) & set(evaluated.files or ()) or held_out.sha256() == evaluated.sha256()
    if shared:
        raise InputError(
            f"the threshold of `detector` would be chosen on images that are evaluated, because {held_out.name} gives the "
            "same images for another split: leave out the option `split` of the folder"
        )
    with frozen(model):
        return make_detector(options.detector, options.fpr or FPR, model, as_floats(held_out.pixels))
