"""The activations that can be bounded: monotone functions that are convex, or convex up to one point and concave beyond."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustcls.certification.layers import Bend, Convex, Layer, Monotone

JUMP = 1e-8  # by how much a softplus may fall at its threshold; PyTorch's default falls by 2e-9


def leaky(slope: float) -> Layer | None:
    """Return leaky ReLU as a layer; None if the slope makes it decreasing or concave."""
    if not 0 <= slope <= 1:
        return None
    return Convex(lambda x: F.leaky_relu(x, slope), lambda x: torch.where(x > 0, 1.0, slope).to(x.dtype), (0.0,))


def softplus(beta: float, threshold: float) -> Layer | None:
    """Return softplus as a layer; None if it is not monotone.

    Beyond its threshold it is x, which is less than log(1 + exp(beta x)) / beta, so it falls by a jump there.
    """
    if not (beta > 0 and threshold > 0 and math.log1p(math.exp(-threshold)) / beta <= JUMP):
        return None
    return Convex(lambda x: F.softplus(x, beta, threshold), lambda x: torch.sigmoid(beta * x))


def cut(low: float, high: float) -> Monotone:
    """Return the layer that clips x to [low, high]."""
    turn = (low + high) / 2
    return Bend(lambda x: x.clamp(low, high), lambda x: ((low < x) & (x < high)).to(x.dtype), (low, high), turn=turn)


def _of_sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x) * torch.sigmoid(-x)


ACTIVATIONS: dict[str, Monotone] = {
    "relu": Convex(F.relu, lambda x: (x > 0).to(x.dtype), (0.0,)),
    "relu6": cut(0.0, 6.0),
    "sigmoid": Bend(torch.sigmoid, _of_sigmoid),
    "tanh": Bend(torch.tanh, lambda x: 1 - torch.tanh(x) ** 2),
    "hardsigmoid": Bend(F.hardsigmoid, lambda x: ((x > -3) & (x < 3)).to(x.dtype) / 6, (-3.0, 3.0)),
}
