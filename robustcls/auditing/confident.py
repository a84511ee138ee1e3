"""Label errors by confident learning (Northcutt et al. 2021, arXiv:1911.00068)."""

from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = torch.finfo(torch.float32).tiny  # smallest probability used in a ratio
SLACK = 1e-6  # tolerance for rounding when a probability is compared with its threshold


@dataclass(frozen=True, eq=False)
class Confident:
    """The result of confident learning for N labels.

    Attributes:
        issue: bool N, whether the label is suspected to be wrong.
        guess: int64 N, the confident class, or the most probable class if there is none.
        margin: float64 N in [-1, 1], the probability of the label minus the largest probability of another class.
        ratio: float64 N, log(largest probability of another class / probability of the label); high values are suspicious.
        thresholds: float64 K, the mean probability of each class on the images with its label; NaN without such images.
        joint: int64 K,K, number of images by label and by confident class.
    """

    issue: Tensor
    guess: Tensor
    margin: Tensor
    ratio: Tensor
    thresholds: Tensor
    joint: Tensor

    def ranked(self) -> Tensor:
        """Return the positions of the issues, the most suspicious first.

        They are ranked by the ratio: probabilities of 1% (label) against 40% are more suspicious than 10% against 60%. The
        margin would rank them the other way round.
        """
        rows = self.issue.nonzero().squeeze(1)
        return rows[self.ratio[rows].argsort(descending=True, stable=True)]


def find_label_errors(probabilities: Tensor, labels: Tensor) -> Confident:
    """Find images whose confident class differs from their label.

    The confident class is the most probable one among the classes whose probability reaches their threshold. An image whose
    label is its most probable class is never an issue.

    Args:
        probabilities: N,K, from models that were not trained on the image; in-sample predictions hide label errors.
        labels: int64 N.
    """
    p, y = probabilities.double().cpu(), labels.cpu()
    classes = p.shape[1]
    counts = y.bincount(minlength=classes)
    own = p.gather(1, y[:, None]).squeeze(1)
    thresholds = torch.zeros(classes, dtype=torch.float64).index_add_(0, y, own) / counts
    reaches = (
        p >= thresholds.nan_to_num(nan=2.0) - SLACK
    )  # a class without images has no threshold and is never reached
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
