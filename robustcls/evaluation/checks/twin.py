"""Whether the PyTorch graph that gives gradients for an exported file predicts the same as the file."""

from robustcls.core.losses import predict_labels
from robustcls.core.subset import spaced
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check, verdict
from robustcls.evaluation.engine import Engine
from robustcls.models.onnx.net import net_of
from robustcls.results.records import Check
from robustcls.runtime.predict import predict

NAME = "twin"
MOST = 500  # largest number of samples
OTHER = 0.02  # share of labels that may differ


@check(25)
def twin(engine: Engine, outcome: Outcome) -> Check | None:
    """Whether an ONNX file and its graph in PyTorch predict the same labels. None for other models.

    Logits come from onnxruntime, gradients from the same graph in PyTorch, where 8-bit values may round differently.
    """
    net = net_of(engine.subject.model)
    if net is None:
        return None
    if net.twin is None:
        return Check(NAME, "not_run", None, None, net.no_gradient)
    rows = spaced(engine.y, MOST)
    with net.in_pytorch():
        twin_logits = predict(engine.model, engine.x[rows], engine.parts)
    other = (predict_labels(twin_logits) != predict_labels(engine.logits[rows])).float().mean().item()
    what = (
        f"{1 - other:.1%} of {len(rows)} labels of the file agree with its graph in PyTorch, which gives the gradients"
    )
    return verdict(NAME, other, OTHER, what, "gradients mislead: trust only attacks without gradients, and transfer")
