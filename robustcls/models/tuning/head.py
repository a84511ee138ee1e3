"""Train only the head."""

from torch import Generator, nn

from robustcls.core.classifier import Classifier
from robustcls.models.transfer import freeze


def head(model: Classifier, generator: Generator) -> list[nn.Module]:
    """Train only the head, as with --freeze backbone."""
    return freeze(model, "backbone")
