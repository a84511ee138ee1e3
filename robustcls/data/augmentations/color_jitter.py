"""Random brightness, contrast, saturation and hue."""

import torch
from torch import Generator, Tensor

from robustcls.core.errors import InputError
from robustcls.data.augment import in_format_of
from robustcls.data.augmentations._functional import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation


def color_jitter(
    x: Tensor,
    generator: Generator,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
) -> Tensor:
    """Random brightness, contrast, saturation and hue, as torchvision's ColorJitter, but always in this order.

    The factors of the first three are drawn from [max(0, 1 - value), 1 + value], that of hue from [-hue, hue]. 0 turns an
    operation off.
    """
    if not (min(brightness, contrast, saturation) >= 0 and 0 <= hue <= 0.5):
        raise InputError("color_jitter: brightness, contrast and saturation must not be negative, hue lie in [0, 0.5]")
    adjusts = (adjust_brightness, adjust_contrast, adjust_saturation)
    *draws, turn = torch.rand(4, len(x), generator=generator, device=x.device)
    y = x.contiguous()
    for adjust, value, draw in zip(adjusts, (brightness, contrast, saturation), draws, strict=True):
        if value:
            low = max(0.0, 1 - value)
            y = adjust(y, low + (1 + value - low) * draw)
    if hue:
        y = adjust_hue(y, (2 * turn - 1) * hue)
    return in_format_of(x, y)
