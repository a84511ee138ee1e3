"""Train the head and low-rank additions to frozen weights."""

from torch import Generator, nn
from torch.nn.utils import parametrize

from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.models.transfer import LAYERS, freeze
from robustcls.runtime.low_rank import LowRank, matrix_shape


def lora(model: Classifier, generator: Generator, *, rank: int = 4, alpha: float = 4.0) -> list[nn.Module]:
    """Train the head, and a matrix of this rank, times alpha / rank, added to each frozen weight (arXiv:2106.09685).

    The matrices are added to the weights of all convolutions and linear layers; normalisation layers and biases are frozen. In
    saved checkpoints they are merged into the weights.
    """
    frozen = freeze(model, "backbone")
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LAYERS) and layer in frozen}
    if not layers:
        raise InputError(
            'lora needs a convolution or a linear layer before the head, and there is none: give `tune="all"`'
        )
    if not alpha > 0:
        raise InputError(f"lora(alpha={alpha}): give a number above 0")
    seen: set[int] = set()
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer) or id(layer.weight) in seen:
            raise InputError(f"lora needs layers with a weight of their own, and that of {name} is computed or shared")
        seen.add(id(layer.weight))
        most = min(matrix_shape(layer.weight))
        if not 1 <= rank <= most:
            size = "x".join(map(str, matrix_shape(layer.weight)))
            raise InputError(f"lora(rank={rank}): layer {name} is a matrix of {size}: give a rank from 1 to {most}")
    for layer in layers.values():
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha, generator))
    return frozen
