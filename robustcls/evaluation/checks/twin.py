"""Whether the graph that gives an exported file its gradients is the file's."""

from robustcls.core.losses import predict_labels
from robustcls.core.subset import spaced
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.checks._check import check, verdict
from robustcls.evaluation.engine import Engine
from robustcls.models.onnx.net import net_of
from robustcls.results.records import Check
from robustcls.runtime.predict import predict

NAME = "twin"
MOST = 500  # samples
OTHER = 0.02  # share of labels


@check(25)
def twin(engine: Engine, outcome: Outcome) -> Check | None:
    """The logits of an ONNX file are onnxruntime's, its gradients those of the same graph in PyTorch, where 8-bit rounding
    may fall the other way; of another kind of model there is nothing to say."""
    net = net_of(engine.subject.model)
    if net is None:
        return None
    if net.twin is None:
        return Check(NAME, "not_run", None, None, net.no_gradient)
    rows = spaced(engine.y, MOST)
    with net.in_pytorch():
        theirs = predict(engine.model, engine.x[rows], engine.parts)
    other = (predict_labels(theirs) != predict_labels(engine.logits[rows])).float().mean().item()
    what = f"{1 - other:.1%} of {len(rows)} labels of the file are those of its graph in PyTorch, which gives the gradients"
    return verdict(NAME, other, OTHER, what, "gradients mislead: trust attacks without gradients, and transfer, alone")
