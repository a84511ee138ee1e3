"""The tracker for Weights & Biases."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from robustcls.core.errors import InputError, unknown
from robustcls.core.files import atomic_write
from robustcls.trackers._tracker import Tracker

if TYPE_CHECKING:
    from wandb import Run


def wandb(
    folder: Path,
    config: Mapping[str, Any],
    start: int,
    *,
    project: str | None = None,
    entity: str | None = None,
    mode: str | None = None,
) -> Tracker:
    """Log to a Weights & Biases run in `wandb/` of the run folder, offline unless `mode` or WANDB_MODE is "online".

    project: WANDB_PROJECT or "robustcls" if not given. Raises InputError without the package, or online without an API key.
    """
    mode = mode or os.environ.get("WANDB_MODE") or "offline"
    if mode not in ("online", "offline"):
        raise unknown("mode of wandb", mode, ("online", "offline"))
    if mode == "offline":
        os.environ.setdefault(
            "WANDB_ERROR_REPORTING", "false"
        )  # otherwise wandb sends error reports even in offline mode
    try:
        import wandb as api
    except ImportError:
        raise InputError("`track=wandb` needs wandb: pip install 'robustcls[wandb]'") from None
    if mode == "online":
        try:
            api.login()
        except api.Error as error:
            raise _refused(error) from None
    project = project or os.environ.get("WANDB_PROJECT") or "robustcls"
    return RemoteRun(folder, config, start, project=project, entity=entity, mode=mode)


class RemoteRun:
    """A Tracker that opens its run when it is first used; wandb itself ignores steps that it already has."""

    def __init__(self, folder: Path, config: Mapping[str, Any], start: int, **place: Any) -> None:
        self.folder, self.config, self.start, self.place = folder, config, start, place

    @cached_property
    def run(self) -> "Run":
        import wandb as api

        known = self.folder / "wandb" / "run-id"
        known.parent.mkdir(parents=True, exist_ok=True)  # without this folder, wandb may write elsewhere
        try:
            run = api.init(
                dir=self.folder,
                id=known.read_text().strip() if self.start and known.exists() else None,
                resume="allow",
                name=self.folder.resolve().name,
                config=dict(self.config),
                settings=api.Settings(silent=True, console="off"),
                **self.place,
            )
        except api.Error as error:
            raise _refused(error) from None
        with atomic_write(known) as part:
            part.write_text(f"{run.id}\n")
        return run

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step, commit=True)

    def images(self, step: int, name: str, grid: Tensor) -> None:
        import wandb as api

        pixels = grid.mul(255).round().byte().permute(1, 2, 0).numpy()
        self.run.log({name: api.Image(pixels)}, step=step, commit=False)

    def close(self) -> None:
        if "run" in vars(self):
            self.run.finish()


def _refused(error: Exception) -> InputError:
    reason = " ".join(str(error).split()).rstrip(".")
    return InputError(f"wandb: {reason:.120}: run `wandb login`, or leave it offline with wandb(mode='offline')")
