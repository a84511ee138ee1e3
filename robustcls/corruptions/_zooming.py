"""A picture seen from nearer."""

import math

from torch import Tensor
from torch.nn import functional as F


def enlarge(x: Tensor, factor: float) -> Tensor:
    """The middle of each image, magnified bilinearly by `factor` and cut to the size of x."""
    h, w = x.shape[2:]
    crop_h, crop_w = math.ceil(h / factor), math.ceil(w / factor)
    top, left = (h - crop_h) // 2, (w - crop_w) // 2
    crop = x[:, :, top : top + crop_h, left : left + crop_w]
    size = (round(crop_h * factor), round(crop_w * factor))
    large = F.interpolate(crop, size=size, mode="bilinear", align_corners=True)
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return large[:, :, top : top + h, left : left + w]
