"""Train, attack, explain and report: adversarial robustness of image classifiers.

    import robustcls
    model = robustcls.load("ckpt.pt")
    images, labels = robustcls.load_data("cifar10", split="test", n=1000)
    result = robustcls.evaluate(model, images, labels, threat="linf:8/255", attacks=["pgd(steps=20)"])
    print(result.robust.accuracy, result.robust.ci95)

Images are float tensors N,C,H,W in [0, 1]. Each name is imported on first use, so that `import robustcls` is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcls.api import attack as attack
    from robustcls.api import audit as audit
    from robustcls.api import certify as certify
    from robustcls.api import choose as choose
    from robustcls.api import evaluate as evaluate
    from robustcls.api import explain as explain
    from robustcls.api import export as export
    from robustcls.api import label as label
    from robustcls.api import load as load
    from robustcls.api import load_data as load_data
    from robustcls.api import train as train
    from robustcls.attribution.measures.trust import explain_metrics as explain_metrics
    from robustcls.core.errors import InputError as InputError
    from robustcls.core.threat import ThreatModel as ThreatModel
    from robustcls.models.wrappers.averaged import averaged as averaged
    from robustcls.models.wrappers.coarse import coarse as coarse
    from robustcls.models.wrappers.ensemble import ensemble as ensemble
    from robustcls.models.wrappers.smoothed import smoothed as smoothed
    from robustcls.models.wrappers.straight_through import straight_through as straight_through
    from robustcls.reporting.render import report as report
    from robustcls.results.records import Evaluation as Evaluation

__version__ = "0.1.0"

_HOMES = {
    "Evaluation": "robustcls.results.records",
    "InputError": "robustcls.core.errors",
    "ThreatModel": "robustcls.core.threat",
    "attack": "robustcls.api",
    "audit": "robustcls.api",
    "averaged": "robustcls.models.wrappers.averaged",
    "certify": "robustcls.api",
    "choose": "robustcls.api",
    "coarse": "robustcls.models.wrappers.coarse",
    "ensemble": "robustcls.models.wrappers.ensemble",
    "evaluate": "robustcls.api",
    "explain": "robustcls.api",
    "export": "robustcls.api",
    "explain_metrics": "robustcls.attribution.measures.trust",
    "label": "robustcls.api",
    "load": "robustcls.api",
    "load_data": "robustcls.api",
    "report": "robustcls.reporting.render",  # not robustcls.api: a report needs no torch
    "smoothed": "robustcls.models.wrappers.smoothed",
    "straight_through": "robustcls.models.wrappers.straight_through",
    "train": "robustcls.api",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'robustcls' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "import_module"})
