"""What a detector rejects, on clean images and on the attacks' results."""

from robustcls.core.losses import misclassified, predict_labels
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import Engine
from robustcls.results.records import Accuracy, Rejection
from robustcls.runtime.predict import predict


def under_detector(engine: Engine, outcome: Outcome) -> Rejection | None:
    """Return the record of the detector's decisions, or None without a detector."""
    detector = engine.subject.detector
    if detector is None:
        return None
    right, rows = predict_labels(engine.logits) == engine.y, outcome.robust.nonzero().squeeze(1)
    caught = 0
    for part in rows.split(engine.parts.size):
        x, logits = outcome.x_adv[part], predict(engine.model, outcome.x_adv[part], engine.parts)
        refused = detector.rejects(x.to(engine.device), logits.to(engine.device)).cpu()
        caught += int((misclassified(logits, engine.y[part]) & refused).sum())
    return Rejection(
        detector=detector.name,
        fpr=detector.fpr,
        threshold=detector.threshold,
        held_out=detector.held_out,
        held_out_rejected=detector.above,
        clean=Accuracy.of(int(right.sum()), len(right)),
        clean_rejected=int(engine.rejected.sum()),
        correct_rejected=int((engine.rejected & right).sum()),
        caught=caught,
    )
