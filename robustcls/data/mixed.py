"""Batches that contain labelled and unlabelled images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from robustcls.data.images import Images


@dataclass(frozen=True)
class Mixed:
    """Labelled and unlabelled images, mixed so that every batch has the same number of unlabelled ones.

    An epoch has as many images as both sets together. The images of each set are drawn in random order, and when all have been
    drawn, again in another order.

    Attributes:
        share: fraction of a batch that is unlabelled. It is rounded so that all parts of a batch have the same number of
            unlabelled images, and at least one image of each kind.
        parts: number of equal parts that a batch is split into, by processes and by gradient accumulation.
    """

    labelled: Images
    unlabelled: Images
    share: float = 0.5
    parts: int = 1

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def num_batches(self, batch_size: int) -> int:
        """Return the number of batches per epoch; a short last batch is left out, unless it is the only one."""
        return max(1, len(self) // batch_size)

    def places(self, batch_size: int) -> Tensor:
        """Whether each place of a batch holds an unlabelled image, bool N: the last places of each part do.

        batch_size: a multiple of `parts`.
        """
        part = batch_size // self.parts
        count = min(max(round(self.share * part), 1), part - 1)
        return (torch.arange(part) >= part - count).repeat(self.parts)

    def batches(
        self, batch_size: int, *, seed: int = 0, epoch: int = 0, start: int = 0, rank: int = 0, size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches, from batch number `start` on: x float32 N,C,H,W in [0, 1], channels last, and y int64 N.

        The order depends only on seed and epoch, as in `images.batches`. rank, size: yield the equal part of each batch that
        belongs to process `rank` of `size`.
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
        # Below, the labelled images are concatenated before the unlabelled ones; `at` moves them to their places.
        at = mine.long().argsort(stable=True).argsort().to(device)
        slices = [slice(rank * count // size, (rank + 1) * count // size) for count in counts]
        for number in range(start, number_of):
            rows = [order[number, part].to(device) for order, part in zip(orders, slices, strict=True)]
            pixels, labels = (
                torch.cat([getattr(images, name)[chosen] for images, chosen in zip(sources, rows, strict=True)])[at]
                for name in ("pixels", "labels")
            )
            yield pixels.float().div_(255).contiguous(memory_format=torch.channels_last), labels


def _order(images: int, count: int, generator: Generator) -> Tensor:
    """Draw `count` positions: all images in a random order, then all again in another order, and so on."""
    rounds = [torch.randperm(images, generator=generator) for _ in range(-(-count // images))]
    return torch.cat(rounds)[:count]
