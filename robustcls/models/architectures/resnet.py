"""Residual networks (He et al. 2015, arXiv:1512.03385), in the variant for small images."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from robustcls.models.architectures._layers import (
    LEAST_RESIDUAL,
    conv3x3,
    init_convolutions,
    make_activation,
    residual_stages,
    widen,
)

__all__ = ["resnet18"]


class BasicBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int, activation: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(channels, out, stride), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = conv3x3(out, out), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.activation1, self.activation2 = make_activation(activation), make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation1(self.bn1(self.conv1(x)))
        return self.activation2(self.bn2(self.conv2(out)) + self.shortcut(x))


def resnet18(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """ResNet-18 that begins with a 3x3 convolution and no pooling, as is usual for CIFAR.

    num_classes: K. input_size: (C, H, W). width: multiplies the channels of every convolution. Raises InputError.
    """
    stem, *widths = widen((64, 64, 128, 256, 512), width, least=LEAST_RESIDUAL)
    net = nn.Sequential(
        OrderedDict(
            conv1=conv3x3(input_size[0], stem),
            bn1=nn.BatchNorm2d(stem),
            activation=make_activation(activation),
            **residual_stages(BasicBlock, stem, widths, 2, activation),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(widths[-1], num_classes),
        )
    )
    init_convolutions(net)
    return net
