"""RandAugment: a few random operations of the same magnitude."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from robustcls.core.errors import InputError
from robustcls.data.augment import in_format_of
from robustcls.data.augmentations import _functional as F


def rand_augment(x: Tensor, generator: Generator, *, num_ops: int = 2, magnitude: int = 9) -> Tensor:
    """Apply `num_ops` random operations of magnitude 0 to 30 to each image (Cubuk et al. 2019, arXiv:1909.13719).

    Operations, magnitudes and interpolation (nearest, black outside) are those of torchvision's RandAugment. Unlike there, only
    posterize and equalize round to 8 bits, and each operation is applied to an equal part of the batch.
    """
    if num_ops < 0 or not 0 <= magnitude <= 30:
        raise InputError(
            f"rand_augment: num_ops={num_ops}, magnitude={magnitude}: give num_ops >= 0, magnitude 0 to 30"
        )

    def signed(operation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def draw(part: Tensor) -> Tensor:
            sign = torch.randint(2, (len(part),), generator=generator, device=x.device) * 2 - 1
            return operation(part, sign.to(x.dtype))

        return draw

    choices = [signed(operation) for operation in operations(magnitude, *x.shape[2:]).values()]
    y = x.contiguous()
    for _ in range(num_ops):
        y = F.one_of(choices, y, generator)
    return in_format_of(x, y)


def operations(magnitude: int, h: int, w: int) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return the operations by name: functions of images N,C,h,w and signs N, 1 or -1, which some operations ignore."""
    level = magnitude / 30
    shear, angle, change = 0.3 * level, math.radians(30 * level), 0.9 * level
    move_x, move_y = int(150 / 331 * w * level), int(150 / 331 * h * level)
    sin, cos = math.sin(angle), math.cos(angle)
    return {
        "identity": lambda x, sign: x,
        "shear_x": lambda x, sign: F.affine(x, (1, sign * shear, sign * shear * h / 2), (0, 1, 0)),
        "shear_y": lambda x, sign: F.affine(x, (1, 0, 0), (sign * shear, 1, sign * shear * w / 2)),
        "translate_x": lambda x, sign: F.affine(x, (1, 0, -sign * move_x), (0, 1, 0)),
        "translate_y": lambda x, sign: F.affine(x, (1, 0, 0), (0, 1, -sign * move_y)),
        "rotate": lambda x, sign: F.affine(x, (cos, -sign * sin, 0), (sign * sin, cos, 0)),
        "brightness": lambda x, sign: F.adjust_brightness(x, 1 + sign * change),
        "color": lambda x, sign: F.adjust_saturation(x, 1 + sign * change),
        "contrast": lambda x, sign: F.adjust_contrast(x, 1 + sign * change),
        "sharpness": lambda x, sign: F.adjust_sharpness(x, 1 + sign * change),
        "posterize": lambda x, sign: F.posterize(x, 8 - round(magnitude / 7.5)),
        "solarize": lambda x, sign: F.solarize(x, 1 - level),
        "autocontrast": lambda x, sign: F.autocontrast(x),
        "equalize": lambda x, sign: F.equalize(x),
    }
