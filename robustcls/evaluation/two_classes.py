"""How two classes are told apart, on clean images and on the worst that the attacks found."""

from collections.abc import Sequence

from torch import Tensor

from robustcls.core.balance import measure_two_classes
from robustcls.core.records import Sample, TwoClasses
from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import Engine
from robustcls.runtime.predict import predict

RULE = (
    "the score is the difference of the two logits; under attack, that of the worst image found of each sample: the "
    "verified adversarial example; where none was found the strongest attempt, and where the clean image is misclassified "
    "that image. Attacks stop at the first wrong label, so the ROC-AUC under attack is an upper bound, too"
)


def tell_apart(engine: Engine, outcome: Outcome, samples: Sequence[Sample]) -> TwoClasses | None:
    """Sensitivity, specificity and ROC-AUC with class 1 as the positive one; None for more classes than two."""
    if outcome.num_classes != 2:
        return None
    attacked = predict(engine.judge, outcome.x_adv, engine.parts)
    return measure_two_classes(samples, 1, _scores(engine.logits), _scores(attacked), RULE)


def _scores(logits: Tensor) -> list[float]:
    """Logits N,2 as how much more they speak for class 1: N. NaN where a logit is."""
    return (logits[:, 1].double() - logits[:, 0].double()).tolist()
