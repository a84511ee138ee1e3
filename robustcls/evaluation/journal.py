"""What an evaluation has done so far, on disk, so that one that was cut off goes on from there."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.files import replacing
from robustcls.evaluation.found import Found
from robustcls.runtime.world import World


class Journal:
    """A folder with one file for each attacked batch, and `task.json`: which evaluation they belong to."""

    def __init__(self, folder: str | Path, *, resume: bool, world: World | None = None) -> None:
        """resume: take what is there. Else it is thrown away."""
        self.folder, self.resume, self.world = Path(folder), resume, world or World()

    def open(self, task: Mapping[str, Any], logits: Tensor) -> None:
        """Raises InputError where the folder holds another evaluation than task, or of a model with other logits (N,K).

        Logits on the clean images tell models apart whose weights are the same and whose code is not.
        """
        file = self.folder / "task.json"
        if not self.resume and self.world.first:
            self.remove()
        self.world.wait()
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            differ = [name for name in task if before.get(name) != task[name]]
            if not differ and not _agree(torch.load(self.folder / "logits", weights_only=True), logits):
                differ = ["model: its outputs on the clean images differ"]
            if differ:
                raise InputError(
                    f"{self.folder} was left by an evaluation with another {', '.join(differ)}: "
                    "repeat that command with --resume, or start anew without"
                )
        with replacing(self.folder / "logits") as part:
            torch.save(logits, part)
        with replacing(file) as part:  # any process may write it: they write the same
            part.write_text(json.dumps(task, indent=1), encoding="utf-8")

    def read(self, name: str, indices: Tensor) -> Found | None:
        """The attempts on exactly these samples, if they were written."""
        file = self.folder / f"{name}.pt"
        if not file.exists():
            return None
        found = Found(**torch.load(file, weights_only=True))
        return found if torch.equal(found.indices, indices) else None

    def write(self, name: str, found: Found) -> None:
        with replacing(self.folder / f"{name}.pt") as part:
            torch.save(vars(found), part)

    def is_empty(self) -> bool:
        return not any(self.folder.glob("*.pt"))

    def remove(self) -> None:
        if (self.folder / "task.json").exists():  # else it is no folder of ours
            shutil.rmtree(self.folder, ignore_errors=True)


def _agree(before: Tensor, now: Tensor) -> bool:
    """Up to what another number of threads may change."""
    return before.shape == now.shape and torch.allclose(before, now, rtol=1e-3, atol=1e-3, equal_nan=True)
