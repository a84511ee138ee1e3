"""Clouds from the diamond-square algorithm (Fournier, Fussell and Carpenter 1982)."""

import torch
from torch import Generator, Tensor


def plasma(n: int, h: int, w: int, decay: float, generator: Generator) -> Tensor:
    """n height maps (N,1,H,W) that span [0, 1] on the square they are cut from. decay: of the roughness with the scale."""
    side = 1 << (max(h, w, 2) - 1).bit_length()
    height = torch.zeros(n, side, side)
    step, roughness = side, 100.0

    def jitter(total: Tensor) -> Tensor:
        return total / 4 + roughness**2 * (2 * torch.rand(total.shape, generator=generator) - 1)

    while step >= 2:
        half = step // 2
        corners = height[:, ::step, ::step]
        across = corners + corners.roll(-1, 1)
        centres = jitter(across + across.roll(-1, 2))
        height[:, half::step, half::step] = centres
        height[:, ::step, half::step] = jitter(centres + centres.roll(1, 1) + corners + corners.roll(-1, 2))
        height[:, half::step, ::step] = jitter(centres + centres.roll(1, 2) + corners + corners.roll(-1, 1))
        step, roughness = half, roughness / decay
    height = height - height.amin((1, 2), keepdim=True)
    height = height / height.amax((1, 2), keepdim=True)
    return height[:, None, :h, :w]
