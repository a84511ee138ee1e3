"""Tensors through Pillow and back."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def through_pillow(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Every image of x (N,C,H,W), rounded to 8 bits, as `change` leaves it, which keeps its size."""
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    changed = np.stack(
        [np.asarray(change(Image.fromarray(one.squeeze(2) if one.shape[2] == 1 else one))) for one in pixels]
    )
    return torch.from_numpy(changed.reshape(pixels.shape)).permute(0, 3, 1, 2).to(x.dtype).contiguous() / 255
