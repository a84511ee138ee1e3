"""How many images go through a model at once."""

from torch import Tensor

# Values, not images: what a network keeps for its backward pass grows with the pixels. VGG16 keeps about 110 MB for an
# image of 224 pixels, so that a pass of 13 such images takes 1.5 GB; 32-pixel images stop at 256, where speed levels off.
VALUES_PER_PASS = 2**21
IMAGES_PER_PASS = 256


def images_per_pass(x: Tensor) -> int:
    """How many images like these (N,C,H,W) fit a pass with gradients in modest memory: from 1 to 256."""
    return max(1, min(IMAGES_PER_PASS, VALUES_PER_PASS // max(1, x[0].numel())))
