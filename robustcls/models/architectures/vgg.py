"""VGG with BatchNorm (Simonyan and Zisserman 2014, arXiv:1409.1556), in the variant for small images.

For images below 32 pixels, the last poolings are left out; for larger ones, the remaining positions are averaged. All functions
take num_classes K, input_size (C, H, W) and width, which multiplies the channels of every convolution. They raise InputError.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from robustcls.models.architectures._layers import conv3x3, init_convolutions, make_activation, widen

__all__ = ["vgg11", "vgg13", "vgg16", "vgg19"]

CHANNELS = (64, 128, 256, 512, 512)


def vgg11(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """VGG11: eight convolutions with BatchNorm and one linear layer."""
    return _vgg((1, 1, 2, 2, 2), num_classes, input_size, width, activation)


def vgg13(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """VGG13: ten convolutions with BatchNorm and one linear layer."""
    return _vgg((2, 2, 2, 2, 2), num_classes, input_size, width, activation)


def vgg16(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """VGG16: thirteen convolutions with BatchNorm and one linear layer."""
    return _vgg((2, 2, 3, 3, 3), num_classes, input_size, width, activation)


def vgg19(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """VGG19: sixteen convolutions with BatchNorm and one linear layer."""
    return _vgg((2, 2, 4, 4, 4), num_classes, input_size, width, activation)


def _vgg(
    convolutions: Sequence[int], num_classes: int, input_size: Sequence[int], width: float, activation: str
) -> nn.Module:
    channels, side = input_size[0], min(input_size[1:])
    layers: list[nn.Module] = []
    for number, out in zip(convolutions, widen(CHANNELS, width), strict=True):
        for _ in range(number):
            layers += [conv3x3(channels, out), nn.BatchNorm2d(out), _in_place(make_activation(activation))]
            channels = out
        if side >= 2:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    features = nn.Sequential(*layers)
    init_convolutions(features)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def _in_place(activation: nn.Module) -> nn.Module:
    return nn.ReLU(inplace=True) if isinstance(activation, nn.ReLU) else activation
