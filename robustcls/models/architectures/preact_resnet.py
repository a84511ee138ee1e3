"""Residual networks with BatchNorm and activation before each convolution (He et al. 2016, arXiv:1603.05027)."""

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

__all__ = ["preact_resnet18"]


class PreActBlock(nn.Module):
    """Two convolutions beside a shortcut; where the shape changes it is a 1x1 convolution of the activated input."""

    def __init__(self, channels: int, out: int, stride: int, activation: str) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), conv3x3(channels, out, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), conv3x3(out, out)
        self.shortcut: nn.Module | None = None
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False))
        self.activation1, self.activation2 = make_activation(activation), make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation1(self.bn1(x))
        out = self.conv2(self.activation2(self.bn2(self.conv1(activated))))
        return out + (x if self.shortcut is None else self.shortcut(activated))


def preact_resnet18(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """PreAct ResNet-18 that begins with a 3x3 convolution and no pooling, as is usual for CIFAR.

    num_classes: K. input_size: (C, H, W). width: multiplies the channels of every convolution. Raises InputError.
    """
    stem, *widths = widen((64, 64, 128, 256, 512), width, least=LEAST_RESIDUAL)
    return make_preact(num_classes, input_size, stem, widths, 2, activation)


def make_preact(
    num_classes: int, input_size: Sequence[int], stem: int, widths: Sequence[int], num_blocks: int, activation: str
) -> nn.Module:
    """A convolution to stem channels, one stage of num_blocks blocks per width, BatchNorm, average and linear layer."""
    net = nn.Sequential(
        OrderedDict(
            conv1=conv3x3(input_size[0], stem),
            **residual_stages(PreActBlock, stem, widths, num_blocks, activation),
            bn=nn.BatchNorm2d(widths[-1]),
            activation=make_activation(activation),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(widths[-1], num_classes),
        )
    )
    init_convolutions(net)
    return net
