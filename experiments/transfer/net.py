"""The network of the transfer-learning example."""

from collections.abc import Sequence

from torch import nn

from robustcls.models.architectures.vgg import vgg16

SIDE = 32


def pooled_vgg16(num_classes: int, input_size: Sequence[int]) -> nn.Module:
    """Return VGG16 at a quarter of its width with pooling to 32 pixels in front: the same weights fit images of 32 and 224.

    num_classes: K. input_size: (C, H, W), H and W multiples of 32.
    """
    channels, height, width = input_size
    pool = nn.AvgPool2d((height // SIDE, width // SIDE))
    return nn.Sequential(pool, vgg16(num_classes, (channels, SIDE, SIDE), width=0.25))
