"""Measures of binary classification, on clean images and on the worst images that the attacks found."""

from collections.abc import Sequence

from torch import Tensor

from robustcls.evaluation.cascade import Outcome
from robustcls.evaluation.engine import Engine
from robustcls.results.balance import OTHERS, measure_two_classes
from robustcls.results.records import Sample, TwoClasses
from robustcls.runtime.predict import predict

RULE = (
    "the score is the difference of the logits of the two classes; under attack, that of the worst image found of each "
    "sample: the verified adversarial example; where none was found the strongest attempt, and where the clean image is "
    "misclassified that image. Attacks stop at the first wrong label, so the ROC-AUC under attack is an upper bound, too"
)
ANY_LABEL = ": all the more as they aim at any wrong label, not at the other of the two classes"


def tell_apart(engine: Engine, outcome: Outcome, samples: Sequence[Sample], labels: tuple[int, int]) -> TwoClasses:
    """Return sensitivity, specificity and ROC-AUC on samples of two classes. labels: the negative, then the positive one."""
    attacked = predict(engine.model, outcome.x_adv, engine.parts)
    rule = RULE if outcome.num_classes == 2 else f"{OTHERS.format(f'{outcome.num_classes:,}')}; {RULE}{ANY_LABEL}"
    return measure_two_classes(samples, labels, _scores(engine.logits, labels), _scores(attacked, labels), rule)


def _scores(logits: Tensor, labels: tuple[int, int]) -> list[float]:
    """Return the difference of the positive and the negative class's logits, N; NaN if any logit is NaN. logits: N,K."""
    negative, positive = labels
    scores = logits[:, positive].double() - logits[:, negative].double()
    return scores.masked_fill(logits.isnan().any(1), float("nan")).tolist()
