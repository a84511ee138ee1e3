"""Residual networks for small images: without pooling after the first convolution, as is usual for CIFAR.

All functions take num_classes K and input_size (C, H, W), and raise InputError.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from robustcls.core.errors import InputError
from robustcls.models.architectures._layers import conv3x3, init_convolutions, make_activation, widen

__all__ = ["preact_resnet18", "resnet7", "resnet18", "wide_resnet"]

LEAST = 8  # channels: PyTorch 2.14 crashes on a CPU in 1x1 convolutions of stride 2 with 2 to 6


def resnet18(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """ResNet-18 (He et al. 2015, arXiv:1512.03385); width multiplies the channels of every convolution."""
    widths = widen((64, 64, 128, 256, 512), width, least=LEAST)
    return _network(BasicBlock, num_classes, input_size[0], widths, 2, activation)


def preact_resnet18(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """PreAct ResNet-18 (He et al. 2016, arXiv:1603.05027); width multiplies the channels of every convolution."""
    widths = widen((64, 64, 128, 256, 512), width, least=LEAST)
    return _network(PreActBlock, num_classes, input_size[0], widths, 2, activation)


def wide_resnet(
    num_classes: int,
    input_size: Sequence[int],
    *,
    depth: int = 28,
    width: int = 10,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """WRN-depth-width (Zagoruyko and Komodakis 2016, arXiv:1605.07146): three stages of (depth - 4) / 6 blocks.

    width: factor on the 16, 32 and 64 channels of the stages. The bias of the linear layer is initialised to zero.
    """
    num_blocks, rest = divmod(depth - 4, 6)
    if num_blocks < 1 or rest:
        raise InputError(f"wide_resnet depth {depth} is not 6n + 4: give 10, 16, 22, 28, 34 ...")
    if not 1 <= width <= 64:
        raise InputError(
            f"wide_resnet width {width} is not a widen factor: give a whole number from 1 to 64, such as 10"
        )
    widths = [16, 16 * width, 32 * width, 64 * width]
    net = _network(PreActBlock, num_classes, input_size[0], widths, num_blocks, activation)
    nn.init.zeros_(net.get_parameter("linear.bias"))
    return net


def resnet7(
    num_classes: int,
    input_size: Sequence[int],
    *,
    width: float = 1.0,
    activation: Literal["relu", "silu", "softplus"] = "relu",
) -> nn.Module:
    """Six convolutions in three stages of 64, 128 and 256 channels, and one linear layer, for training on CPUs.

    The first convolution halves the resolution, so that no other layer works on the full image.
    Each stage is a convolution and a residual one; max pooling is between stages. width multiplies the channels.
    """
    widths = widen((64, 128, 256), width)
    layers: list[nn.Module] = [nn.Conv2d(input_size[0], widths[0], 4, 2, padding=1, bias=False)]
    side = min(input_size[1:]) // 2
    for number, out in enumerate(widths):
        if number and side >= 2:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        if number:
            layers.append(conv3x3(widths[number - 1], out))
        layers += [nn.BatchNorm2d(out), make_activation(activation), ResidualConvolution(out, activation)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
    init_convolutions(net)
    return net


class ResidualConvolution(nn.Module):
    """x + activation(norm(convolution(x)))."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.conv, self.bn = conv3x3(channels, channels), nn.BatchNorm2d(channels)
        self.activation = make_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.activation(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

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


class PreActBlock(nn.Module):
    """BatchNorm and activation before each convolution; a shortcut that changes the shape takes the activated input."""

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


def _network(
    block: type[nn.Module], num_classes: int, channels: int, widths: Sequence[int], num_blocks: int, activation: str
) -> nn.Sequential:
    """Build a residual network.

    widths: channels of the first convolution, then of each stage of num_blocks blocks; every stage except the first halves the
    resolution.
    """
    stem, *stages = widths
    layers: dict[str, nn.Module] = {"conv1": conv3x3(channels, stem)}
    if block is BasicBlock:
        layers |= {"bn1": nn.BatchNorm2d(stem), "activation": make_activation(activation)}
    for number, (into, out) in enumerate(zip(widths, stages, strict=False), start=1):
        blocks = [block(into, out, 1 if number == 1 else 2, activation)]
        blocks += [block(out, out, 1, activation) for _ in range(num_blocks - 1)]
        layers[f"layer{number}"] = nn.Sequential(*blocks)
    if block is PreActBlock:
        layers |= {"bn": nn.BatchNorm2d(stages[-1]), "activation": make_activation(activation)}
    layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "linear": nn.Linear(stages[-1], num_classes)}
    net = nn.Sequential(OrderedDict(layers))
    init_convolutions(net)
    return net
