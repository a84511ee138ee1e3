"""The interface of a tracker."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Tracker(Protocol):
    """The log of one run, created by `name(folder, config, start, **options)`, which checks its options and writes nothing.

    `step` counts the training images seen since the run began; `start` is the step at which the run is resumed, 0 for a new
    run. Writing begins with the first call. What an earlier process logged after `start` must not appear twice.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers by name. This completes the step."""

    def images(self, step: int, name: str, grid: Tensor) -> None:
        """Log one image, float 3,H,W in [0, 1]; called before the scalars of the same step."""

    def close(self) -> None:
        """Write everything that is pending. If nothing was logged, leave no file."""
