"""How much of a run is done. Imports no torch, since commands do not wait for it."""

from typing import TYPE_CHECKING

from robustcls.core.progress import Bar

if TYPE_CHECKING:
    from robustcls.training.run import Run


class RunBar(Bar):
    """A bar with rate and time left for the whole run, on stderr."""

    def __init__(self, run: "Run", *, show: bool = True) -> None:
        total = run.config.epochs * run.state.num_batches * run.images_per_batch
        super().__init__(total, "training", "image", show=show, done=run.images_seen, scale=True)

    def batch(self, run: "Run") -> None:
        """One more is done."""
        self.label = f"epoch {run.state.epoch + 1}/{run.config.epochs}"
        self.advance(run.images_per_batch)
