"""Learning-rate schedules: share of the run done, in [0, 1), to share of the peak rate."""

import math

__all__ = ["constant", "cosine", "one_cycle"]


def one_cycle(progress: float, *, warmup: float = 0.25) -> float:
    """Linear up to the peak, then linear down to 0 (Smith and Topin 2017, arXiv:1708.07120)."""
    return progress / warmup if progress < warmup else (1 - progress) / (1 - warmup)


def cosine(progress: float, *, warmup: float = 0.05) -> float:
    """Linear up to the peak, then half a cosine down to 0 (Loshchilov and Hutter 2016, arXiv:1608.03983)."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def constant(progress: float, *, warmup: float = 0.0) -> float:
    """The peak rate, after a linear warm-up."""
    return min(1.0, progress / warmup) if warmup > 0 else 1.0
