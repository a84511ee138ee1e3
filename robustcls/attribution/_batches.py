"""Batch sizes of attribution methods, and reproducible random draws for each image."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from robustcls.core.classifier import device_of, dtype_of

# The limit counts values, not images, because the memory for a backward pass grows with the pixels. VGG16 keeps about 110 MB
# for an image of 224 pixels, so a pass of 13 such images takes 1.5 GB. For 32-pixel images the limit is 256 images, beyond
# which they are no longer faster.
VALUES_PER_PASS = 2**21
IMAGES_PER_PASS = 256


def placed(model: nn.Module, images: Tensor) -> Tensor:
    """Return a copy on the model's device, in the precision of its parameters."""
    return images.detach().to(device_of(model), dtype_of(model), copy=True)


def images_per_pass(x: Tensor) -> int:
    """Return how many images like these (N,C,H,W) fit into a pass with gradients in moderate memory: from 1 to 256."""
    return max(1, min(IMAGES_PER_PASS, VALUES_PER_PASS // max(1, x[0].numel())))


def images_per_chunk(x: Tensor, device: torch.device) -> int:
    """Return how many images `explain` passes to a method at once. On a CPU few, which is as fast and shows progress."""
    return min(images_per_pass(x), 32) if device.type == "cpu" else images_per_pass(x)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random generators that captum uses, and restore their state afterwards."""
    before = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


def singly(*stacks: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the rows of the stacks, each as a stack of one, with the same random draws for every row.

    A map therefore does not depend on the rest of the batch, and the maps of a clean and its adversarial image share the draws.
    """
    seed = torch.initial_seed()
    for row in zip(*(stack.split(1) for stack in stacks), strict=True):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        yield row
