"""Drift detection: two-sample tests that compare a model's current outputs with its outputs at export.

Source: Rabanser et al. 2019, arXiv:1810.11953 (black-box shift detection on softmax outputs, univariate Kolmogorov-Smirnov
tests with Bonferroni correction over the classes). It is not a defence: an attacker can craft adversarial images that leave
the distribution of the outputs unchanged.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy
from numpy.typing import NDArray

from robustcls.core.errors import InputError
from robustcls.runtime.session import DAMAGED


@dataclass
class Drift:
    """The reference for K classes, and the outputs in the current window."""

    quantiles: NDArray[numpy.float64]  # K,Q: of each class's probability, at equal steps from 0 to 1
    threshold: float  # Kolmogorov-Smirnov distance above which a window has drifted
    window: int  # images in a window
    seen: list[NDArray[numpy.float64]] = field(default_factory=list)  # probabilities N,K that fill the current window
    statistics: NDArray[numpy.float64] | None = None  # K, of the last full window

    @classmethod
    def of(cls, path: Path, classes: int) -> "Drift":
        """Read the reference from a file. Raises InputError if the file is damaged or does not fit the number of classes."""
        try:
            with numpy.load(path, allow_pickle=False) as stored:
                drift = cls(stored["quantiles"].astype(float), float(stored["threshold"]), int(stored["window"]))
        except DAMAGED:
            raise InputError(f"cannot read {path}: export the model again") from None
        if drift.quantiles.ndim != 2 or len(drift.quantiles) != classes or drift.window < 1:
            raise InputError(f"{path} does not belong to this model: export the model again")
        return drift

    def add(self, probabilities: NDArray[numpy.float64]) -> list[NDArray[numpy.float64]]:
        """Add probabilities N,K, and return the statistics (K) of each window that became full."""
        self.seen.append(probabilities)
        found = []
        if sum(map(len, self.seen)) >= self.window:
            waiting = numpy.concatenate(self.seen)
            while len(waiting) >= self.window:
                found.append(self.distances(waiting[: self.window]))
                waiting = waiting[self.window :]
            self.seen = [waiting]
        if found:
            self.statistics = found[-1]
        return found

    def has_drifted(self, statistics: NDArray[numpy.float64]) -> bool:
        return bool(statistics.max() > self.threshold)

    def distances(self, probabilities: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        """Return the Kolmogorov-Smirnov distance of each column of N,K from the reference.

        The distribution of the reference is interpolated linearly between its quantiles.
        """
        n = len(probabilities)
        below, up_to = numpy.arange(n) / n, numpy.arange(1, n + 1) / n
        found = numpy.empty(len(self.quantiles))
        for label, quantiles in enumerate(self.quantiles):
            values = numpy.sort(probabilities[:, label])
            low, high = _distribution(quantiles, values)
            found[label] = max((up_to - high).max(), (low - below).max())
        return found


def _distribution(quantiles: NDArray[numpy.float64], values: NDArray[numpy.float64]) -> tuple[NDArray, NDArray]:
    """Return the shares of the reference strictly below each value, and at or below it; they differ where quantiles repeat."""
    last = len(quantiles) - 1
    left, right = numpy.searchsorted(quantiles, values, "left"), numpy.searchsorted(quantiles, values, "right")
    before, after = quantiles[(left - 1).clip(0)], quantiles[left.clip(max=last)]
    inside = (values - before) / numpy.where(after > before, after - before, 1)
    between = numpy.where(left == 0, 0, numpy.where(left > last, last, left - 1 + inside))
    repeated = right > left
    return numpy.where(repeated, left, between) / last, numpy.where(repeated, right - 1, between) / last
