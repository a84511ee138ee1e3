"""Batches cut from images that lie in memory, on the device that computes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from robustcls.data.images import Images


def batches(
    images: Images,
    batch_size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    start: int = 0,
    channels_last: bool = False,
    rank: int = 0,
    size: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields x float32 N,C,H,W in [0, 1] and y int64 N, from batch number `start` on.

    The order depends on seed and epoch alone, on every device, so that a run resumes at any batch. drop_last leaves out a
    short last batch, unless it is the only one. rank, size: this process's equal part of each batch. Move the images to
    the device once (`Images.to`) rather than each epoch.
    """
    order = torch.arange(len(images))
    if shuffle:
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        order = torch.randperm(len(images), generator=generator)
    order = order.to(images.pixels.device)
    for number in range(start, num_batches(images, batch_size, drop_last=drop_last)):
        chosen = order[number * batch_size : (number + 1) * batch_size]
        each = len(chosen) // size
        x, y = images.batch(chosen[rank * each : (rank + 1) * each] if size > 1 else chosen)
        yield (x.contiguous(memory_format=torch.channels_last) if channels_last else x), y


def num_batches(images: Images, batch_size: int, *, drop_last: bool = False) -> int:
    """How many batches an epoch has."""
    whole, rest = divmod(len(images), batch_size)
    return whole + (rest > 0 and not (drop_last and whole > 0))
