"""Label errors by confident learning (Northcutt et al. 2021, arXiv:1911.00068)."""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = torch.finfo(torch.float32).tiny  # probability, in a ratio
SLACK = 1e-6  # a probability that equals its class's threshold, but for rounding, reaches it


@dataclass(frozen=True, eq=False)
class Confident:
    """What confident learning says of N labels.

    Attributes:
        issue: bool N, whether the label is taken for wrong.
        guess: int64 N, the confident class, or where there is none the most probable one.
        margin: float64 N in [-1, 1], the probability of the label less the largest of another class.
        ratio: float64 N, the logarithm of the largest probability of another class over that of the label; high is suspicious.
        thresholds: float64 K, the mean probability of each class on the images that carry its label; NaN for none.
        joint: int64 K,K, images by label and by confident class.
    """

    issue: Tensor
    guess: Tensor
    margin: Tensor
    ratio: Tensor
    thresholds: Tensor
    joint: Tensor

    def ranked(self) -> Tensor:
        """The positions of the issues, the most suspicious first.

        By the ratio: a label of 1% against 40% is odder than one of 10% against 60%, of which the margin says the opposite.
        """
        rows = self.issue.nonzero().squeeze(1)
        return rows[self.ratio[rows].argsort(descending=True, stable=True)]


def find_label_errors(probabilities: Tensor, labels: Tensor) -> Confident:
    """Whose confident class is not their label.

    The confident class of an image is the most probable of the classes whose probability reaches the class's threshold. An
    image whose label is its most probable class is no issue, whatever the thresholds.

    Args:
        probabilities: N,K, of models that were not trained on the image: in-sample ones hide the errors.
        labels: int64 N.
    """
    p, y = probabilities.double().cpu(), labels.cpu()
    classes = p.shape[1]
    counts = y.bincount(minlength=classes)
    own = p.gather(1, y[:, None]).squeeze(1)
    thresholds = torch.zeros(classes, dtype=torch.float64).index_add_(0, y, own) / counts
    reaches = p >= thresholds.nan_to_num(nan=2.0) - SLACK  # no image carries the label: nothing reaches it
    confident = p.where(reaches, -1).argmax(1)
    known, predicted = reaches.any(1), p.argmax(1)
    others = p.scatter(1, y[:, None], -1).amax(1)
    joint = torch.zeros(classes * classes, dtype=torch.int64)
    joint += (y * classes + confident)[known].bincount(minlength=classes * classes)
    return Confident(
        issue=known & (confident != y) & (predicted != y),
        guess=confident.where(known, predicted),
        margin=own - others,
        ratio=others.clamp(min=LEAST).log() - own.clamp(min=LEAST).log(),
        thresholds=thresholds,
        joint=joint.view(classes, classes),
    )
