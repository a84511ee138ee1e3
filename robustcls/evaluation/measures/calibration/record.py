"""How well confidence and accuracy agree."""

from pydantic.dataclasses import dataclass

from robustcls.results.accuracy import Spread
from robustcls.results.fields import Count, Share


@dataclass
class Bin:
    """The predictions whose confidence lies in (low, high]."""

    low: Share
    high: Share
    n: Count
    confidence: Share | None  # mean; None: the bin is empty
    accuracy: Share | None


@dataclass
class Reliability:
    """How well accuracy and confidence, the largest softmax probability, agree on one set of images."""

    n: Count
    accuracy: Share
    confidence: Share  # mean
    ece: Share  # expected calibration error over the bins (Guo et al. 2017, arXiv:1706.04599)
    bins: list[Bin]
    when_right: Spread  # confidence of the correct predictions
    when_wrong: Spread  # confidence of the wrong predictions


@dataclass
class Calibration:
    """Calibration on clean images and on the worst images that the attacks found."""

    clean: Reliability
    adversarial: Reliability  # the worst image found for each sample
    rule: str = ""  # what the adversarial images are, in words


RECORD = Calibration
