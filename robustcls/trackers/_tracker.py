"""What a tracker is asked to keep."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Tracker(Protocol):
    """A log of one run, made by `name(folder, config, start, **options)`, which checks and writes nothing.

    `step` counts the training images seen since the run began; `start` is the step at which the run goes on, 0 for a new
    one. Writing begins at the first call; what an earlier process logged after `start` is not to be seen twice.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers by name, and so completes the step."""

    def images(self, step: int, name: str, grid: Tensor) -> None:
        """Logs one picture, float 3,H,W in [0, 1], before the scalars of the same step."""

    def close(self) -> None:
        """Writes what is left; without anything logged, leaves no file."""
