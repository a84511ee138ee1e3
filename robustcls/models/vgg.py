"""VGG with BatchNorm (Simonyan and Zisserman 2014, arXiv:1409.1556), in the variant for small images."""

from collections.abc import Sequence

from torch import nn

from robustcls.core.errors import InputError

__all__ = ["vgg16"]

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(num_classes: int, input_size: Sequence[int], *, width: float = 1.0) -> nn.Module:
    """VGG16: thirteen convolutions with BatchNorm and one linear layer.

    num_classes: K. input_size: (C, H, W). width: multiplies the channels of every convolution.
    Below 32 pixels the last poolings are left out; above, what remains of the grid is averaged.
    """
    return _vgg(VGG16, num_classes, input_size, width)


def _vgg(blocks: Sequence[Sequence[int]], num_classes: int, input_size: Sequence[int], width: float) -> nn.Module:
    if not 0 < width <= 16:
        raise InputError(f"vgg width {width} is not a multiplier: give a number above 0, such as 0.25")
    channels, side = input_size[0], min(input_size[1:])
    layers: list[nn.Module] = []
    for block in blocks:
        for base in block:
            out = max(1, round(base * width))
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        if side >= 2:
            layers.append(nn.MaxPool2d(2))
            side //= 2
    features = nn.Sequential(*layers)
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
