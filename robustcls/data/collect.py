"""Images and labels from whatever iterable a user has."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcls.core.errors import InputError


def collect(images: Any, labels: Any = None) -> tuple[Tensor, Tensor]:
    """Images and labels as tensors: tensors and NumPy arrays as they are given, or all batches, or samples, of an iterable."""
    if labels is not None:
        return as_tensor(images, "images"), as_tensor(labels, "labels")
    if isinstance(images, Tensor | np.ndarray):
        raise InputError("the images have no labels: give `labels`, or an iterable of (images, labels) for both")
    batches = []
    for number, batch in enumerate(images):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            what = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise InputError(f"batch {number} of the data is {what}: give an iterable of (images, labels)")
        x, y = as_tensor(batch[0], "images"), torch.as_tensor(batch[1])
        # A data set gives one sample at a time.
        batches.append((x[None], y[None]) if x.ndim == 3 and y.ndim == 0 else (x, y))
    if not batches:
        raise InputError("the data holds no batch: give an iterable of (images, labels) that is not used up")
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def as_tensor(values: Any, what: str) -> Tensor:
    """A tensor as it is, a NumPy array as one on the CPU; what is wrong with it is found where it is checked.

    Raises InputError for anything else. what: `images` or `labels`.
    """
    if isinstance(values, Tensor):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return torch.from_numpy(np.require(values, values.dtype.newbyteorder("="), ["C", "W"]))
    kind = f"an array of {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
    if what == "labels":
        raise InputError(f"labels are {kind}: give whole numbers, one per image, as a tensor or a NumPy array")
    raise InputError(
        f"images are {kind}: give one float tensor or NumPy array N,C,H,W in [0, 1], such as "
        "torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255 of uint8 images N,H,W,C"
    )
