"""Train, attack, explain and report: adversarial robustness of image classifiers.

    import robustcls
    model = robustcls.load("ckpt.pt")
    result = robustcls.evaluate(model, images, labels, robustcls.ThreatModel("linf", 8 / 255), attacks=["pgd(steps=20)"])
    print(result.robust.accuracy, result.robust.ci95)

Images are float tensors N,C,H,W in [0, 1]. Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustcls.attacks import attack as attack
    from robustcls.attribution import explain as explain
    from robustcls.attribution.measures.trust import explain_metrics as explain_metrics
    from robustcls.core.threat import ThreatModel as ThreatModel
    from robustcls.evaluation import evaluate as evaluate
    from robustcls.models import load as load
    from robustcls.reporting import report as report
    from robustcls.results.records import Evaluation as Evaluation

__version__ = "0.1.0"

_HOMES = {
    "Evaluation": "robustcls.results.records",
    "InputError": "robustcls.core.errors",
    "ThreatModel": "robustcls.core.threat",
    "attack": "robustcls.attacks",
    "evaluate": "robustcls.evaluation",
    "explain": "robustcls.attribution",
    "explain_metrics": "robustcls.attribution.measures.trust",
    "load": "robustcls.models",
    "report": "robustcls.reporting",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'robustcls' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
