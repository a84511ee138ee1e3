"""Batches of labelled and of unlabelled images together."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robustcls.data.images import Images


@dataclass(frozen=True)
class Mixed:
    """Labelled images, and unlabelled ones of which every batch has the same share.

    An epoch has as many images as both together; of either, all are drawn in a random order, and then all again.

    Attributes:
        share: of a batch that is unlabelled, rounded so that each of its parts has the same and none is without either.
        parts: equal ones that a batch is cut in, by processes and by accumulation.
    """

    labelled: Images
    unlabelled: Images
    share: float = 0.5
    parts: int = 1

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def num_batches(self, batch_size: int) -> int:
        """Of an epoch; a short last batch is left out, unless it is the only one."""
        return max(1, len(self) // batch_size)

    def places(self, batch_size: int) -> Tensor:
        """Which images of a batch are unlabelled, the last of each part: batch_size, bool. parts divides batch_size."""
        part = batch_size // self.parts
        count = min(max(round(self.share * part), 1), part - 1)
        return (torch.arange(part) >= part - count).repeat(self.parts)

    def batches(
        self, batch_size: int, *, seed: int = 0, epoch: int = 0, start: int = 0, rank: int = 0, size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields x float32 N,C,H,W in [0, 1], channels last, and y int64 N, from batch number `start` on.

        The order depends on seed and epoch alone, as that of `images.batches`. rank, size: this process's equal part of each
        batch.
        """
        batch_size, number_of = min(batch_size, len(self)), self.num_batches(batch_size)
        places, device = self.places(batch_size), self.labelled.pixels.device
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        counts = (int((~places).sum()), int(places.sum()))
        sources = (self.labelled, self.unlabelled)
        orders = [
            _order(len(images), number_of * count, generator).view(number_of, count)
            for images, count in zip(sources, counts, strict=True)
        ]
        each = batch_size // size
        mine = places[rank * each : (rank + 1) * each]
        at = mine.long().argsort(stable=True).argsort().to(device)  # where each is, once the labelled ones come first
        slices = [slice(rank * count // size, (rank + 1) * count // size) for count in counts]
        for number in range(start, number_of):
            rows = [order[number, its].to(device) for order, its in zip(orders, slices, strict=True)]
            pixels, labels = (
                torch.cat([getattr(images, name)[its] for images, its in zip(sources, rows, strict=True)])[at]
                for name in ("pixels", "labels")
            )
            yield pixels.float().div_(255).contiguous(memory_format=torch.channels_last), labels


def _order(images: int, count: int, generator: Generator) -> Tensor:
    """Positions of so many draws: all images in a random order, then all in another."""
    rounds = [torch.randperm(images, generator=generator) for _ in range(-(-count // images))]
    return torch.cat(rounds)[:count]
