"""VGG on patches of 2x2 pixels: a pixel of this network is a patch with 12 channels, so that every layer has half the side.

The time that this saves in the first layers may pay for more channels; run.py is to show whether it does.
"""

from collections.abc import Sequence

from torch import nn


def patch_vgg(num_classes: int, input_size: Sequence[int]) -> nn.Module:
    """Return six convolutions, 64-64-128-128-256-256, and one linear layer. input_size: (C, H, W), multiples of 8."""
    return _net((64, 64), (128, 128), (256, 256), num_classes=num_classes, channels=input_size[0])


def patch_vgg_deep(num_classes: int, input_size: Sequence[int]) -> nn.Module:
    """Return eight convolutions, 64-64-128-128-128-256-256-256, and one linear layer."""
    return _net((64, 64), (128,) * 3, (256,) * 3, num_classes=num_classes, channels=input_size[0])


def _net(*stages: Sequence[int], num_classes: int, channels: int) -> nn.Module:
    layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
    channels *= 4
    for number, stage in enumerate(stages):
        layers += [nn.MaxPool2d(2)] if number else []
        for out in stage:
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
