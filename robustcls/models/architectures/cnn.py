"""Small plain convolutional networks, as used in certified training, with only layers that bounds support.

Both functions take num_classes K, input_size (C, H, W) and width, which multiplies the channels of every layer except the last.
They raise InputError.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from robustcls.core.errors import InputError
from robustcls.models.architectures._layers import make_activation, widen

__all__ = ["cnn4", "cnn7"]


def cnn4(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """Two convolutions of 4x4 with stride 2, two linear layers (Wong and Kolter 2018, arXiv:1711.00851); no BatchNorm."""
    first, second, hidden = widen((16, 32, 100), width)
    _check_side(input_size, 4)
    grid = (input_size[1] // 4) * (input_size[2] // 4)
    return nn.Sequential(
        nn.Conv2d(input_size[0], first, 4, 2, 1), make_activation(activation),
        nn.Conv2d(first, second, 4, 2, 1), make_activation(activation),
        nn.Flatten(), nn.Linear(second * grid, hidden), make_activation(activation), nn.Linear(hidden, num_classes),
    )  # fmt: skip


def cnn7(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    batch_norm: bool = True,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """Five convolutions of 3x3, the third with stride 2, two linear layers (Shi et al. 2021, arXiv:2103.17268)."""
    *channels, hidden = widen((64, 64, 128, 128, 128, 512), width)
    _check_side(input_size, 2)
    layers: list[nn.Module] = []
    into = input_size[0]
    for number, out in enumerate(channels):
        layers += [nn.Conv2d(into, out, 3, 2 if number == 2 else 1, 1, bias=not batch_norm)]
        layers += [*([nn.BatchNorm2d(out)] if batch_norm else []), make_activation(activation)]
        into = out
    flat = into * -(-input_size[1] // 2) * -(-input_size[2] // 2)
    layers += [nn.Flatten(), nn.Linear(flat, hidden, bias=not batch_norm)]
    layers += [*([nn.BatchNorm1d(hidden)] if batch_norm else []), make_activation(activation)]
    return nn.Sequential(*layers, nn.Linear(hidden, num_classes))


def _check_side(input_size: Sequence[int], least: int) -> None:
    if min(input_size[1:]) < least:
        size = "x".join(map(str, input_size[1:]))
        raise InputError(f"images of {size} are too small for this network: give {least} pixels or more a side")
