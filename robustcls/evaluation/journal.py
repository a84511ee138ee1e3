"""The journal: finished batches of an evaluation on disk, so that an interrupted evaluation can be resumed."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.evaluation.packing import pack, unpack
from robustcls.evaluation.verify import Attempts
from robustcls.runtime.stored import EightBit, ImageRows
from robustcls.runtime.world import World

RENAMED = {"wrong": "misclassified", "fooled": "success"}  # names of fields in earlier versions


class Journal:
    """A folder with one file per attacked batch, and `task.json`, which says what evaluation they belong to.

    Every file contains the mark of the run that started the journal, so that a file of another run is never read.
    """

    def __init__(self, folder: str | Path, *, resume: bool, world: World | None = None) -> None:
        """resume: use what the folder contains; otherwise it is deleted."""
        self.folder, self.resume, self.world = Path(folder), resume, world or World()
        self.mark = ""

    def open(self, task: Mapping[str, Any], logits: Tensor) -> None:
        """Start or resume the journal of an evaluation.

        Raises InputError if the folder holds an evaluation with another task, or of a model with other logits (N,K) on the
        clean images. The logits distinguish models with the same weights but different code.
        """
        mark = self._mark_before(task, logits) if self.resume else ""
        if not self.resume and self.world.first:
            self.remove()
        self.mark = self.world.gather(mark or uuid4().hex)[0]
        if self.world.first:
            with atomic_write(self.folder / "task.json") as part:
                part.write_text(json.dumps({**task, "run": self.mark}, indent=1), encoding="utf-8")
            with atomic_write(self.folder / "logits") as part:
                torch.save(logits, part)
        self.world.wait()

    def _mark_before(self, task: Mapping[str, Any], logits: Tensor) -> str:
        """Return the mark of the run to resume, or "" if there is none."""
        file, known = self.folder / "task.json", self.folder / "logits"
        if not file.exists() or not known.exists():
            return ""
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            differ = [name for name in task if before.get(name) != task[name]]
            if not differ and not _agree(torch.load(known, weights_only=True), logits):
                differ = ["model: its outputs on the clean images differ"]
        except (OSError, ValueError, RuntimeError, EOFError, AttributeError):
            raise InputError(f"{self.folder} is damaged: start anew, without `resume`") from None
        if "run" not in before:
            raise InputError(f"{self.folder} was left by an earlier version of robustcls: start anew, without `resume`")
        if differ:
            raise InputError(
                f"{self.folder} was left by an evaluation with another {', '.join(differ)}: "
                "repeat it with `resume`, or start anew without"
            )
        return str(before.get("run", ""))

    def known(self, name: str) -> Any:
        """Return the value of this name in the task of the run to resume; None if there is none or it cannot be read."""
        try:
            task = json.loads((self.folder / "task.json").read_text(encoding="utf-8")) if self.resume else {}
            return task.get(name)
        except (OSError, ValueError, AttributeError):
            return None

    def read(self, name: str, indices: Tensor, x: ImageRows) -> Attempts | None:
        """Return this run's attempts on exactly these samples, if they were written. x: the images of all samples."""
        content = self._read(name)
        if content is None or not torch.equal(content["indices"], indices):
            return None
        attempts = Attempts(**{RENAMED.get(key, key): value for key, value in content.items()})
        if not isinstance(attempts.x_adv, Tensor):
            attempts.x_adv = unpack(attempts.x_adv, x[indices])
        return attempts

    def write(self, name: str, attempts: Attempts, x: ImageRows) -> None:
        """Write the attempts. Large images are packed first, which takes less time than writing the bytes that it saves."""
        content = dict(vars(attempts))
        if isinstance(x, EightBit):
            content["x_adv"] = pack(attempts.x_adv, x[attempts.indices])
        self._write(name, content)

    def read_chunk(self, rows: Tensor) -> dict[str, Any] | None:
        """Return what `write_chunk` wrote in this run for the samples at exactly these rows, or None."""
        content = self._read(_chunk_name(rows))
        here = content is not None and torch.equal(content["rows"], rows)
        return content if all(self.world.gather(here)) else None

    def write_chunk(self, rows: Tensor, content: Mapping[str, Any]) -> None:
        """Write the results of the samples at these rows after all attacks, and delete the files of their batches."""
        if self.world.first:
            self._write(_chunk_name(rows), {"rows": rows, **content})
            for file in self.folder.glob("*.pt"):
                if not file.stem.startswith("chunk"):
                    file.unlink()
        self.world.wait()  # the other processes must not write batches of the next chunk before the files are deleted

    def _read(self, name: str) -> dict[str, Any] | None:
        file = self.folder / f"{name}.pt"
        if not self.resume or not file.exists():
            return None
        try:
            content = torch.load(file, weights_only=True)
        except Exception:  # a damaged file fails in many ways
            raise InputError(f"{file} is damaged: start anew, without `resume`") from None
        return content if content.pop("run", "") == self.mark else None

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        with atomic_write(self.folder / f"{name}.pt") as part:
            torch.save({**content, "run": self.mark}, part)

    def is_empty(self) -> bool:
        """Whether no batch has been written."""
        return not any(self.folder.glob("*.pt"))

    def remove(self) -> None:
        """Delete the folder, if it is a journal or empty."""
        if (self.folder / "task.json").exists():  # otherwise the folder is not a journal
            shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.rmdir()  # empty, if not even task.json could be written


def _chunk_name(rows: Tensor) -> str:
    return f"chunk-{int(rows[0])}-{int(rows[-1])}"


@contextmanager
def kept(journal: Journal | None, say: Callable[[Path], object] = lambda folder: None) -> Iterator[None]:
    """Remove the journal when the evaluation inside ends; keep it if the evaluation is interrupted, unless it is empty.

    say: called with the folder if the journal is kept.
    """
    try:
        yield
    except BaseException:
        if journal and journal.mark and journal.is_empty():
            journal.remove()
        elif journal and journal.mark:
            say(journal.folder)
        raise
    if journal and journal.world.first:
        journal.remove()


@contextmanager
def kept_in(folder: str | Path | None) -> Iterator[Journal | None]:
    """Yield a journal in this folder that resumes what the folder contains; None without a folder."""
    if folder is None:
        yield None
        return
    journal, folder = Journal(folder, resume=True), Path(folder)
    if folder.exists() and not (folder / "task.json").exists() and (folder.is_file() or any(folder.iterdir())):
        raise InputError(f"{folder} holds something else: name a folder of its own with `resume`")
    with kept(journal):
        yield journal


def _agree(before: Tensor, now: Tensor) -> bool:
    """Whether logits agree, up to the rounding that another number of threads causes."""
    return before.shape == now.shape and torch.allclose(before, now, rtol=1e-3, atol=1e-3, equal_nan=True)
