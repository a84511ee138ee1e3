"""Random images of any size, labelled by the network that is attacked on them."""

import torch
from torch import nn

from robustcls.data.images import Images


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 4)
    ).eval()


@torch.no_grad()
def images(split, *, n: int = 100, side: int = 16):
    pixels = torch.empty(n, 3, side, side, dtype=torch.uint8)
    model, labels = net(), []
    for rows in torch.arange(n).split(100):
        draws = torch.Generator().manual_seed(int(rows[0]))
        pixels[rows] = torch.randint(0, 256, (len(rows), 3, side, side), dtype=torch.uint8, generator=draws)
        labels.append(model(pixels[rows].float() / 255).argmax(1))
    return Images(pixels, torch.cat(labels), tuple("abcd"), f"{n} of {side}")
