"""The progress bar of a run. This module does not import torch, so that commands start quickly."""

from typing import TYPE_CHECKING

from robustcls.core.progress import Bar

if TYPE_CHECKING:
    from robustcls.training.run import Run


class RunBar(Bar):
    """A progress bar on stderr with the rate and the time left for the whole run."""

    def __init__(self, run: "Run", *, show: bool = True) -> None:
        total = run.config.epochs * run.state.num_batches * run.images_per_batch
        super().__init__(total, "training", "image", show=show, done=run.images_seen, scale=True)

    def batch(self, run: "Run") -> None:
        """Advance the bar by one batch."""
        self.label = f"epoch {run.state.epoch + 1}/{run.config.epochs}"
        self.advance(run.images_per_batch)
