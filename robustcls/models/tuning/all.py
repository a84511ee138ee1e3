"""Everything is trained."""

from torch import Generator, nn

from robustcls.core.classifier import Classifier


def all(model: Classifier, generator: Generator) -> list[nn.Module]:
    """All weights."""
    return []
