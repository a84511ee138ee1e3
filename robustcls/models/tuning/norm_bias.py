"""Norms, biases and the head are trained."""

from torch import Generator, nn

from robustcls.core.classifier import Classifier
from robustcls.models.transfer import freeze


def norm_bias(model: Classifier, generator: Generator) -> list[nn.Module]:
    """The head, all biases, and scale and shift of norms (BitFit: Ben Zaken et al. 2021, arXiv:2106.10199).

    These are the parameters of one dimension. BatchNorms that are trained go on gathering statistics.
    """
    layers = freeze(model, "backbone")
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(parameter.ndim == 1)
    return [layer for layer in layers if not any(p.requires_grad for p in layer.parameters(recurse=False))]
