"""How sparse attribution maps are."""

import torch
from torch import Tensor

from robustcls.core.errors import InputError


def gini(maps: Tensor) -> Tensor:
    """The Gini index of each map's magnitudes (Chalasani et al. 2020, arXiv:1810.06583): N,H,W to N float64 in [0, 1).

    0: all pixels have the same magnitude; 1 - 1/(H*W): one pixel has it all. nan where a map is all zero or not finite.
    Raises InputError for other shapes.
    """
    if not isinstance(maps, Tensor) or maps.ndim != 3 or maps[:1].numel() == 0:
        raise InputError(
            f"maps of shape {tuple(getattr(maps, 'shape', ()))}: give a non-empty tensor N,H,W, such as collapse(maps)"
        )
    magnitude = maps.detach().to("cpu", torch.float64).abs().flatten(1).sort(1).values
    pixels = magnitude.shape[1]
    weights = (pixels - torch.arange(1, pixels + 1, dtype=torch.float64) + 0.5) / pixels
    # Rounding can put equal magnitudes a hair below 0.
    return (1 - 2 * (magnitude * weights).sum(1) / magnitude.sum(1)).clamp_min(0)
