"""How many images go through a model at once, and what is drawn at random for each."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from robustcls.core.classifier import device_of, dtype_of

# Values, not images: what a network keeps for its backward pass grows with the pixels. VGG16 keeps about 110 MB for an
# image of 224 pixels, so that a pass of 13 such images takes 1.5 GB; 32-pixel images stop at 256, where speed levels off.
VALUES_PER_PASS = 2**21
IMAGES_PER_PASS = 256


def placed(model: nn.Module, images: Tensor) -> Tensor:
    """A copy on the model's device, in the precision of its parameters."""
    return images.detach().to(device_of(model), dtype_of(model), copy=True)


def images_per_pass(x: Tensor) -> int:
    """How many images like these (N,C,H,W) fit a pass with gradients in modest memory: from 1 to 256."""
    return max(1, min(IMAGES_PER_PASS, VALUES_PER_PASS // max(1, x[0].numel())))


def images_per_chunk(x: Tensor, device: torch.device) -> int:
    """How many images `explain` gives a method at once: on a CPU few, which is as fast, so that progress is seen."""
    return min(images_per_pass(x), 32) if device.type == "cpu" else images_per_pass(x)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The random streams that captum draws from, begun at the seed; at the end they are where they were."""
    before = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


def singly(*stacks: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The rows of the stacks, each as a stack of one, with the same random draws for every row.

    So a map depends neither on its neighbours in the batch nor, for a clean image and its adversarial one, on the draw.
    """
    seed = torch.initial_seed()
    for row in zip(*(stack.split(1) for stack in stacks), strict=True):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        yield row
