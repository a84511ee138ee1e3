"""Calibration: how a model's confidence agrees with its accuracy, on clean images and on the worst that the attacks found."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.gradients import frozen
from robustcls.evaluation.measures.calibration.record import Bin, Calibration, Reliability
from robustcls.evaluation.subject import Subject
from robustcls.results.records import Evaluation, Spread
from robustcls.runtime.predict import predict

if TYPE_CHECKING:
    from robustcls.evaluation.pace import Pace

WORST = (
    "the worst image found for each sample: the verified adversarial image; the strongest attempt if none was found; the clean "
    "image if it is misclassified already. Attacks stop at the first misclassification, so stronger attacks may find wrong "
    "predictions with higher confidence"
)


def measure(
    subject: Subject, evaluation: Evaluation, *, batch_size: int, bins: int = 15, progress: bool = False
) -> Calibration:
    """Return confidence and accuracy on the clean images, and on the worst image that the attacks found for each sample.

    Raises InputError if the logits of no image give probabilities.
    """
    rule, examples = WORST, evaluation.examples
    results = []
    with torch.inference_mode(False), frozen(subject.model):
        for name, images in (("clean", examples.x), ("adversarial", examples.x_adv)):
            logits = predict(subject.model, images, batch_size, label=f"calibration, {name}" if progress else "")
            sure = ~logits.softmax(1).isnan().any(1)  # -inf is a class that is ruled out
            if not sure.any():
                raise InputError(f"the logits of no {name} image give probabilities: there is no confidence to measure")
            if not sure.all():
                rule += f"; left out of the {name} images: {int((~sure).sum())} whose logits give no probabilities"
            results.append(reliability(logits[sure], examples.y[sure], bins))
    clean, adversarial = results
    return Calibration(clean, adversarial, rule)


def seconds(pace: "Pace") -> float:
    return 2 * pace.forward


def reliability(logits: Tensor, y: Tensor, bins: int = 15) -> Reliability:
    """Return the expected calibration error over bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    Confidence is the largest softmax probability. logits: N,K, without NaN; y: N.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    right = predicted == y
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    bin_of = torch.bucketize(confidence, edges[1:-1])  # an edge belongs to the bin below it
    records, gap = [], 0.0
    for number in range(bins):
        inside = bin_of == number
        n = int(inside.sum())
        record = Bin(edges[number].item(), edges[number + 1].item(), n, None, None)
        if n:
            record.confidence = confidence[inside].mean().item()
            record.accuracy = right[inside].double().mean().item()
            gap += n / len(y) * abs(record.accuracy - record.confidence)
        records.append(record)
    return Reliability(
        n=len(y),
        accuracy=right.double().mean().item(),
        confidence=confidence.mean().item(),
        ece=gap,
        bins=records,
        when_right=Spread.of(confidence[right].tolist()),
        when_wrong=Spread.of(confidence[~right].tolist()),
    )
