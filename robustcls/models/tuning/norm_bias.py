"""Train normalisation layers, biases and the head."""

from torch import Generator, nn

from robustcls.core.classifier import Classifier
from robustcls.models.transfer import freeze


def norm_bias(model: Classifier, generator: Generator) -> list[nn.Module]:
    """Train the head, all biases, and scale and shift of norm layers (BitFit: Ben Zaken et al. 2021, arXiv:2106.10199).

    Outside the head these are the parameters of one dimension. BatchNorms that are trained keep updating their statistics.
    """
    layers = freeze(model, "backbone")
    for layer in layers:
        for parameter in layer.parameters(recurse=False):
            parameter.requires_grad_(parameter.ndim == 1)
    return [layer for layer in layers if not any(p.requires_grad for p in layer.parameters(recurse=False))]
