"""Generated images of ImageNet's size, and a small network whose predictions are their labels.

robustcls attack --model experiments.imagenet_scale.generated:net --data "experiments.imagenet_scale.generated:images(n=5000)"
"""

import torch
from torch import Tensor, nn

from robustcls.data.images import Images
from robustcls.runtime.stored import empty_pixels

SIDE, CLASSES, BLOCK = 224, 10, 100


@torch.no_grad()
def net() -> nn.Module:
    """Return a cheap network (8x8 average pooling, two convolutions), so that an attack spends most time on the pixels."""
    torch.manual_seed(0)
    head = nn.Linear(128, CLASSES)
    body = nn.Sequential(
        nn.AvgPool2d(8), nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    )  # fmt: skip
    logits = head(body(_draw(BLOCK, torch.Generator().manual_seed(SIDE)).float() / 255))
    head.bias -= logits.mean(0)  # without this, the network would predict one class for all images
    return nn.Sequential(*body, head).eval()


@torch.no_grad()
def images(split: str, *, n: int = 1000) -> Images:
    """Return n images of coarse colour fields with fine noise, labelled by `net`, so that clean accuracy is 100%."""
    pixels, model, labels = torch.from_numpy(empty_pixels((n, 3, SIDE, SIDE))), net(), []
    for start in range(0, n, BLOCK):
        block = _draw(min(BLOCK, n - start), torch.Generator().manual_seed(start))
        pixels[start : start + BLOCK] = block
        labels.append(model(block.float() / 255).argmax(1))
    return Images(pixels, torch.cat(labels), tuple(map(str, range(CLASSES))), f"generated(n={n})")


def _draw(count: int, generator: torch.Generator) -> Tensor:
    fields = torch.rand(count, 3, 14, 14, generator=generator).mul_(191).to(torch.uint8)
    noise = torch.randint(0, 64, (count, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    return noise.add_(fields.repeat_interleave(16, 2).repeat_interleave(16, 3))
