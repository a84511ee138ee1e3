"""Images and labels from whatever iterable a user has."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError


def collect(images: Tensor | Iterable[Any], labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images and labels as tensors: as they are given, or of all batches, or samples, of an iterable."""
    if labels is not None:
        return images, labels  # type: ignore[return-value]  # what is wrong with them is found where they are checked
    if isinstance(images, Tensor):
        raise InputError("the images have no labels: give `labels`, or an iterable of (images, labels) for both")
    batches = []
    for number, batch in enumerate(images):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            what = f"{len(batch)} things" if isinstance(batch, (tuple, list)) else type(batch).__name__
            raise InputError(f"batch {number} of the data is {what}: give an iterable of (images, labels)")
        x, y = batch[0], torch.as_tensor(batch[1])
        # A data set gives one sample at a time.
        batches.append((x[None], y[None]) if x.ndim == 3 and y.ndim == 0 else (x, y))
    if not batches:
        raise InputError("the data holds no batch: give an iterable of (images, labels) that is not used up")
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
