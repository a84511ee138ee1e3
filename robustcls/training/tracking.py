"""Logging of a run to trackers such as TensorBoard."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcls.core import plugins
from robustcls.core.errors import InputError
from robustcls.results.records import Epoch
from robustcls.trackers._tracker import Tracker

COLUMNS = 8  # images in a row of the logged picture


class Tracking:
    """The trackers of a run, if any. They write nothing before the first epoch or picture is logged. Raises InputError."""

    def __init__(
        self, specs: Sequence[str], folder: Path, config: Mapping[str, Any], *, start: int, every: int = 1
    ) -> None:
        """specs: of the trackers. start: training images seen so far. every: number of epochs between two pictures."""
        names = [plugins.parse("tracker", spec).name for spec in specs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"`track={twice[0]}` is given twice: give it once")
        self.trackers: list[Tracker] = [plugins.load("tracker", spec)(folder, config, start) for spec in specs]
        self.every = every

    def wants_images(self, epoch: int) -> bool:
        return bool(self.trackers) and epoch % self.every == 0

    def images(self, step: int, x: Tensor, x_adv: Tensor) -> None:
        """Log the first images of a batch, clean and adversarial, N,C,H,W in [0, 1]. Call before `epoch` of that step."""
        if self.trackers:
            grid = pairs(x, x_adv)
            for tracker in self.trackers:
                tracker.images(step, "adversarial", grid)

    def epoch(self, row: Epoch, step: int) -> None:
        """Log every number that was measured in an epoch."""
        for tracker in self.trackers:
            tracker.scalars(step, numbers(row))

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


def numbers(row: Epoch) -> dict[str, float]:
    """Return the numbers of an epoch by name: train_loss as train/loss, val_clean as val/clean, dict entries as field/key."""
    values: dict[str, Any] = {}
    for field, value in dataclasses.asdict(row).items():
        name = re.sub("^(train|val)_", r"\1/", field)
        values |= {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return {name: value for name, value in values.items() if type(value) in (int, float)}


def pairs(x: Tensor, x_adv: Tensor) -> Tensor:
    """Return one picture 3,H,W on the CPU with three rows of images: clean, adversarial, and their difference.

    Each difference is scaled to full contrast and centred on grey.
    """
    from torchvision.utils import make_grid

    x, x_adv = (images[:COLUMNS].detach().float().cpu() for images in (x, x_adv))
    delta = x_adv - x
    largest = delta.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return make_grid(torch.cat([x, x_adv, 0.5 + delta / largest / 2]), nrow=len(x))
