"""The files of a run folder: what a run saves, and how it goes on from there."""

import copy
import dataclasses
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from robustcls.core.config import resolve, to_toml
from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write, check_writable
from robustcls.core.provenance import versions
from robustcls.models.checkpoint import load_weights, save_checkpoint
from robustcls.models.weights import read_file
from robustcls.results.records import Epoch
from robustcls.training.config import TrainConfig

if TYPE_CHECKING:
    from robustcls.training.run import Run

# The plain values of a run that last.pt holds.
PROGRESS = ("epoch", "batch", "best_score", "best_epoch", "rollbacks", "stopped")


def state_of(run: "Run") -> dict[str, Any]:
    """Everything that going on needs, besides the model's weights: tensors and primitives, shared with the run."""
    return {
        "data": run.data_sha256,
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "average": {"updates": run.average.updates, "state_dict": run.average.model.state_dict()}
        if run.average
        else None,
        "steps": run.world.gather({name: value.cpu() for name, value in run.state.items()}),  # each process has its own
        "meter": run.world.gather(run.meter.state_dict()),
        "progress": {name: getattr(run, name) for name in PROGRESS},
        "history": [dataclasses.asdict(row) for row in run.history],
    }


def restore_state(run: "Run", content: dict[str, Any]) -> None:
    """Goes back to a model's weights and the rest, as `state_of` gave it. Raises InputError where it is not of this run."""
    if content["data"] != run.data_sha256:
        raise InputError(
            f"the training or validation images of {run.config.data} are not those that {run.folder} began with: "
            "put them back, or begin a new run"
        )
    began = list(content.get("classes", ()))
    if began != list(run.model.classes):
        first = next(pair for pair in zip_longest(began, run.model.classes) if pair[0] != pair[1])
        raise InputError(
            f"the classes of {run.config.data} are not those that {run.folder} began with: {first[1]!r} is where {first[0]!r} "
            "was: name them as they were, or begin a new run"
        )
    try:
        _restore(run, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{run.folder / 'last.pt'} is damaged or of another version ({type(error).__name__}: {error}): begin a new run"
        ) from None


def _restore(run: "Run", content: dict[str, Any]) -> None:
    load_weights(run.model.net, content["state_dict"], "last.pt")
    for buffer, values in ((run.model.mean, content["mean"]), (run.model.std, content["std"])):
        buffer.copy_(torch.as_tensor(values).view_as(buffer))
    run.optimizer.load_state_dict(content["optimizer"])
    run.scaler.load_state_dict(content["scaler"])
    if run.average:
        run.average.updates = content["average"]["updates"]
        load_weights(run.average.model, content["average"]["state_dict"], "last.pt")
    if run.world.rank < len(content["steps"]):  # else there are more processes than there were
        steps = content["steps"][run.world.rank]
        run.state = {name: value.to(run.device) for name, value in steps.items()}
        run.meter.load_state_dict(content["meter"][run.world.rank])
    for name in PROGRESS:
        setattr(run, name, content["progress"][name])
    run.history = [Epoch(**row) for row in content["history"]]
    run.track_from_here()


@contextmanager
def as_it_was(run: "Run") -> Iterator[None]:
    """At the end the run is what it was before, whatever it was trained on inside."""
    model = {"state_dict": run.model.net.state_dict(), "mean": run.model.mean.flatten(), "std": run.model.std.flatten()}
    content = copy.deepcopy(state_of(run) | model | {"classes": run.model.classes})
    try:
        yield
    finally:
        restore_state(run, content)


def save_last(run: "Run", name: str = "last.pt") -> None:
    """Writes history.jsonl, then last.pt, from the first process alone; all must call it."""
    state = state_of(run)
    if not run.world.first:
        return
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in state["history"]]
    with atomic_write(run.folder / "history.jsonl") as part:
        part.write_text("".join(lines), encoding="utf-8")
    save_checkpoint(run.folder / name, run.model, meta(run), **state)


def save_best(run: "Run") -> None:
    if run.world.first:
        save_checkpoint(run.folder / "ckpt.pt", run.judged, meta(run))


def save_config(run: "Run", remark: str = "") -> None:
    """Writes config.toml, after a remark of one line where there is one."""
    if run.world.first:
        with atomic_write(run.folder / "config.toml") as part:
            text = (f"# {remark}\n" if remark else "") + to_toml(run.config)
            part.write_text(text, encoding="utf-8", errors="backslashreplace")


def meta(run: "Run") -> dict[str, Any]:
    """What a checkpoint says of itself: primitives alone."""
    return {
        "data": run.config.data,
        "data_dir": run.config.data_dir,
        "seed": run.config.seed,
        "threat": {"norm": run.threat.norm, "eps": run.threat.eps},
        "epoch": run.best_epoch,
        "selected_by": run.selected_by,
        "chance": dataclasses.asdict(run.chance),
        "note": run.train.note,
        "config": dataclasses.asdict(run.config),
        "precision": run.precision,
        "versions": versions(),
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read_last(folder: Path, name: str = "last.pt") -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration and the content of a run folder's last.pt. Raises InputError."""
    path = folder / name
    if not path.exists():
        raise InputError(f"no {path}: give the folder of a run")
    content = read_file(path)
    if not isinstance(content, dict) or "progress" not in content:
        raise InputError(f"{path} is not the last.pt of a run: give a run folder")
    if "data" not in content or not isinstance(content.get("meta"), dict) or "config" not in content["meta"]:
        raise InputError(f"{path} is damaged or of another version: begin a new run")
    return resolve(TrainConfig, content["meta"]["config"]), content


def new_folder(config: TrainConfig) -> Path:
    """The run folder: --out, or a fresh one named for data, architecture, attack and time."""
    if config.out:
        return Path(config.out)
    parts = [config.data or "", config.arch, config.adv or "none", time.strftime("%Y%m%d-%H%M%S")]
    name = "-".join(_slug(part) for part in parts)
    free = (Path("runs") / f"{name}{end}" for end in ("", *(f"-{count}" for count in range(2, 10_000))))
    return next(folder for folder in free if not folder.exists())


def check_new(folder: Path, inputs: Iterable[str] = ()) -> None:
    """Raises InputError where a run cannot begin in the folder. inputs: files that it must not replace."""
    if (folder / "last.pt").exists():
        raise InputError(f"{folder} already holds a run: go on with --resume {folder}, or name another --out")
    if (folder / "ckpt.pt").exists():
        raise InputError(f"{folder} already holds a checkpoint: name another --out")
    check_writable(folder / "config.toml", inputs=inputs)


def begin_folder(run: "Run", remark: str = "") -> None:
    """Writes a new run's first files; all of them or none."""
    before = set(run.folder.glob("*"))
    try:
        save_config(run, remark)
        save_last(run)
    except BaseException:
        if run.world.first:
            for file in set(run.folder.glob("*")) - before:
                file.unlink(missing_ok=True)
        raise


def _slug(text: str) -> str:
    head = text.rstrip("/").rsplit("/", 1)[-1].split("(")[0]
    return "".join(letter if letter.isalnum() or letter in "_." else "_" for letter in head) or "run"
