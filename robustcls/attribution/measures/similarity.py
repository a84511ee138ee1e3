"""Similarity of two stacks of attribution maps, per sample, and the sparseness of one.

Similarity measures take a and b, float N,H,W on the CPU, and return N float64 values: nan where a measure is not defined, such
as the correlation with a constant map, or where a map is not finite. They raise InputError for other shapes.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustcls.core.errors import InputError


def compare(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Return all similarity measures of a and b, N,H,W each: N values by name. `top_k_tolerant` tolerates one pixel."""
    return {
        "spearman": spearman(a, b),
        "top_k": top_k(a, b),
        "top_k_tolerant": top_k(a, b, tolerance=1),
        "ssim": ssim(a, b),
        "cosine": cosine(a, b),
    }


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation of the pixels' signed values, in [-1, 1]; ties get their average rank."""
    a, b, defined = _pair(a, b)
    return _where(defined, _cosine(_centred_ranks(a), _centred_ranks(b)))


def top_k(a: Tensor, b: Tensor, share: float = 0.05, tolerance: int = 0) -> Tensor:
    """Return the share of the pixels with the largest magnitudes that a and b share (Ghorbani et al. 2019, arXiv:1710.10547).

    share: of the pixels that count as top: k = max(1, round(share * H * W)). There are always k, with ties broken in reading
    order, and including zeros if a map has too few other values. tolerance: in pixels; a top pixel counts if the other map has
    one within this distance along both axes, and the result is the mean of both directions. In [0, 1]; nan if a map is all
    zero. Raises InputError for a share outside (0, 1] or a negative tolerance.
    """
    if not 0 < share <= 1:
        raise InputError(f"top_k: share={share} is not in (0, 1]: give the part of the pixels, such as 0.05")
    if tolerance < 0:
        raise InputError(f"top_k: tolerance={tolerance} is negative: give a number of pixels, 0 or more")
    a, b, defined = _pair(a, b)
    k = max(1, round(share * a[0].numel()))
    tops = [_top(maps, k) for maps in (a, b)]
    # A tolerance as large as the longer side already reaches every pixel.
    radius = min(tolerance, max(a.shape[1:]))
    near_a, near_b = (F.max_pool2d(top, 2 * radius + 1, stride=1, padding=radius) for top in tops)
    common = (tops[0] * near_b + tops[1] * near_a).sum((1, 2)) / 2
    return _where(defined & _not_zero(a) & _not_zero(b), common / k)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861) of the smoothed maps, in [-1, 1].

    Each map is divided by its own largest magnitude, so that the data range is 2, and smoothed with a Gaussian of sigma =
    shorter side / 32: single pixels of a gradient map are noise that no eye would follow. The window is a Gaussian of sigma
    1.5 cut to 11 pixels, or to the largest odd number that fits the shorter side; K1 = 0.01, K2 = 0.03; the mean is over
    the pixels where the window fits. nan where a map is all zero.
    """
    from scipy.ndimage import gaussian_filter

    a, b, defined = _pair(a, b)
    defined = defined & _not_zero(a) & _not_zero(b)
    side = min(a.shape[1:])

    def smoothed(maps: Tensor) -> Tensor:
        scaled = maps / maps.abs().amax((1, 2), keepdim=True)
        return torch.from_numpy(gaussian_filter(scaled.numpy(), (0, side / 32, side / 32)))

    a, b = smoothed(a), smoothed(b)
    radius = (min(11, side) - 1) // 2
    window = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    window = window / window.sum()

    def local_mean(maps: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(maps[:, None], window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))[:, 0]

    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a * a) - mean_a**2 + local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return _where(defined, (luminance * (2 * covariance + c2) / (variances + c2)).mean((1, 2)))


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine similarity of the maps as vectors, in [-1, 1]; nan if a map is all zero."""
    a, b, defined = _pair(a, b)
    return _where(defined, _cosine(a, b))


def gini(maps: Tensor) -> Tensor:
    """Return the Gini index of each map's magnitudes (Chalasani et al. 2020, arXiv:1810.06583): N,H,W to N float64 in [0, 1).

    0: all pixels have the same magnitude; 1 - 1/(H*W): only one pixel is not 0. nan if a map is all zero or not finite.
    Raises InputError for other shapes.
    """
    _check(maps)
    magnitude = maps.detach().to("cpu", torch.float64).abs().flatten(1).sort(1).values
    pixels = magnitude.shape[1]
    weights = (pixels - torch.arange(1, pixels + 1, dtype=torch.float64) + 0.5) / pixels
    # Rounding can give slightly less than 0 for equal magnitudes.
    return (1 - 2 * (magnitude * weights).sum(1) / magnitude.sum(1)).clamp_min(0)


def shuffled(maps: Tensor, seed: int) -> Tensor:
    """Return the control "random map": each map's values in a random order, a different one for each map. N,H,W to N,H,W.

    This keeps the distribution of values, and therefore the sparseness, but no positions.
    """
    _check(maps)
    values = maps.flatten(1)
    order = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).argsort(1)
    return values.gather(1, order.to(maps.device)).view(maps.shape)


def displaced(maps: Tensor, seed: int) -> Tensor:
    """Return random maps of the same texture: each map mirrored at random and shifted cyclically by a random offset.

    maps: N,H,W. When pixels are inserted or deleted by rank, scattered pixels change an image more than patches do, so a map
    must be compared with one that is equally patchy.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = maps.shape[1:]
    moved = []
    for one in maps:
        down, right = (int(torch.randint(1, max(2, side), (), generator=generator)) for side in (height, width))
        axes = [axis for axis in (0, 1) if torch.rand((), generator=generator) < 0.5]
        moved.append(one.flip(axes).roll((down, right), (0, 1)))
    return torch.stack(moved)


def _check(maps: Tensor) -> None:
    if not isinstance(maps, Tensor) or maps.ndim != 3 or not maps.is_floating_point() or maps[:1].numel() == 0:
        raise InputError(
            f"maps of shape {tuple(getattr(maps, 'shape', ()))}: give a non-empty float tensor N,H,W, such as collapse(maps)"
        )


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return both stacks in float64, and whether each sample is finite in both."""
    _check(a)
    _check(b)
    if a.shape != b.shape:
        raise InputError(f"maps {tuple(a.shape)} against {tuple(b.shape)}: compare as many maps of one size")
    a, b = a.detach().to("cpu", torch.float64), b.detach().to("cpu", torch.float64)
    return a, b, (a.isfinite() & b.isfinite()).flatten(1).all(1)


def _where(defined: Tensor, values: Tensor) -> Tensor:
    return values.where(defined, torch.nan)


def _not_zero(maps: Tensor) -> Tensor:
    return maps.flatten(1).any(1)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(1), b.flatten(1)
    # Scale to 1 first, because the squares of very small gradients would underflow.
    a, b = (maps / maps.abs().amax(1, keepdim=True) for maps in (a, b))
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).clamp(-1, 1)


def _centred_ranks(maps: Tensor) -> Tensor:
    from scipy.stats import rankdata

    values = maps.flatten(1).numpy()
    # The mean rank by its formula is exact, so that a constant map becomes exactly zero, and the result nan.
    return torch.from_numpy(np.asarray(rankdata(values, axis=1)) - (values.shape[1] + 1) / 2)


def _top(maps: Tensor, k: int) -> Tensor:
    """1 at the k pixels of largest magnitude, else 0."""
    magnitude = maps.abs().flatten(1)
    # torch.topk leaves open which of equal values it takes.
    order = magnitude.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(magnitude).scatter_(1, order[:, :k], 1).view(maps.shape)
