"""The head alone is trained."""

from torch import Generator, nn

from robustcls.core.classifier import Classifier
from robustcls.models.transfer import freeze


def head(model: Classifier, generator: Generator) -> list[nn.Module]:
    """The head alone, as with --freeze backbone."""
    return freeze(model, "backbone")
