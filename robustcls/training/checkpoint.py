"""The files of a run folder: writing them, and resuming a run from them."""

import dataclasses
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from robustcls.core.config import resolve, to_toml
from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write, check_writable
from robustcls.core.provenance import versions
from robustcls.deploy.prune import Pruned
from robustcls.models.checkpoint import save_checkpoint
from robustcls.models.transfer import Tuned
from robustcls.models.weights import read_file
from robustcls.runtime.low_rank import low_rank_layers
from robustcls.training.config import TrainConfig
from robustcls.training.run import Run

OF_EACH_PROCESS = ("steps", "meter")  # entries of a state that differ between processes: in last.pt a list, by rank
WEIGHTS = ("state_dict", "mean", "std")  # entries of a state that `save_checkpoint` writes for every checkpoint


def save_last(run: Run, name: str = "last.pt") -> None:
    """Write history.jsonl, then last.pt. All processes must call it; only the first one writes."""
    state = run.state.state_dict()
    state |= {key: run.world.gather(state[key]) for key in OF_EACH_PROCESS}
    extra = {key: value for key, value in state.items() if key not in WEIGHTS}
    if low_rank_layers(run.state.model):  # `save_checkpoint` merges them into the weights; training needs them apart
        extra["unmerged"] = state["state_dict"]
    if not run.world.first:
        return
    lines = [json.dumps(row, allow_nan=False) + "\n" for row in state["history"]]
    with atomic_write(run.folder / "history.jsonl") as part:
        part.write_text("".join(lines), encoding="utf-8")
    save_checkpoint(run.folder / name, run.state.model, meta(run), data=run.data_sha256, **extra)


def restore_state(run: Run, content: dict[str, Any]) -> None:
    """Restore the state that `save_last` wrote. Raises InputError where images or classes differ, or the file is damaged."""
    if content["data"] != run.data_sha256:
        raise InputError(
            f"the training or validation images of {run.config.data} are not those that {run.folder} began with: "
            "restore them, or begin a new run"
        )
    began, classes = list(content.get("classes", ())), list(run.train.classes)
    if began != classes:
        was, now = next(pair for pair in zip_longest(began, classes) if pair[0] != pair[1])
        raise InputError(
            f"the classes of {run.config.data} are not those that {run.folder} began with: {now!r} is where {was!r} "
            "was: restore their names, or begin a new run"
        )
    try:
        fresh, rank = run.state.state_dict(), run.world.rank  # a process that last.pt has no entry for starts fresh
        own = {key: content[key][rank] if rank < len(content[key]) else fresh[key] for key in OF_EACH_PROCESS}
        own |= {"state_dict": content.get("unmerged", content["state_dict"])}
        run.state.load_state_dict(content | own)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{run.folder / 'last.pt'} is damaged or of another version ({type(error).__name__}: {error}): begin a new run"
        ) from None


def save_best(run: Run) -> None:
    """Write ckpt.pt, from the first process only."""
    if run.world.first:
        save_checkpoint(run.folder / "ckpt.pt", run.state.eval_model, meta(run))


def save_config(run: Run) -> None:
    """Write config.toml. It begins with comment lines on how the recipe was adapted and which options came from Python."""
    if run.world.first:
        comments = [run.remark, f"{' and '.join(run.from_python)} came from Python" if run.from_python else ""]
        text = "".join(f"# {line}\n" for line in comments if line) + to_toml(run.config)
        with atomic_write(run.folder / "config.toml") as part:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")


def meta(run: Run) -> dict[str, Any]:
    """Return the metadata of a checkpoint; all values are primitives."""
    return {
        "data": run.config.data,
        "data_dir": run.config.data_dir,
        "seed": run.config.seed,
        "threat": {"norm": run.threat.norm, "eps": run.threat.eps},
        "epoch": run.state.best_epoch,
        "selected_by": run.selected_by,
        "chance": dataclasses.asdict(run.chance),
        "note": run.train.note,
        "config": dataclasses.asdict(run.config),
        "precision": run.precision,
        "versions": versions(),
        "saved": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"from_python": list(run.from_python)} if run.from_python else {}),
        **({"pruned": dataclasses.asdict(pruned)} if isinstance(pruned := run.notes.get("pruned"), Pruned) else {}),
        **({"tuned": dataclasses.asdict(tuned)} if isinstance(tuned := run.notes.get("tuned"), Tuned) else {}),
    }


def read_last(folder: Path, name: str = "last.pt") -> tuple[TrainConfig, dict[str, Any]]:
    """Return the configuration and the content of the last.pt in a run folder. Raises InputError."""
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
    """The run folder: `out`, or a new one named after data, architecture, attack and time."""
    if config.out:
        return Path(config.out)
    return fresh_folder(config.data or "", config.arch, config.adv or "none")


def fresh_folder(*parts: str) -> Path:
    """The path of a folder below runs/ that does not exist yet, named after these parts and the time."""
    name = "-".join(_slug(part) for part in (*parts, time.strftime("%Y%m%d-%H%M%S")))
    candidates = (Path("runs") / f"{name}{end}" for end in ("", *(f"-{count}" for count in range(2, 10_000))))
    return next(folder for folder in candidates if not folder.exists())


def check_new(folder: Path, inputs: Iterable[str] = ()) -> None:
    """Raise InputError where a new run cannot begin in the folder. inputs: files that it must not overwrite."""
    if (folder / "last.pt").exists():
        raise InputError(f"{folder} already holds a run: resume it with `resume={folder}`, or name another `out`")
    if (folder / "ckpt.pt").exists():
        raise InputError(f"{folder} already holds a checkpoint: name another `out`")
    check_writable(folder / "config.toml", inputs=inputs)


def begin_folder(run: Run) -> None:
    """Write the first files of a new run. If one cannot be written, remove the others."""
    before = set(run.folder.glob("*"))
    try:
        save_config(run)
        save_last(run)
    except BaseException:
        if run.world.first:
            for file in set(run.folder.glob("*")) - before:
                file.unlink(missing_ok=True)
        raise


def _slug(text: str) -> str:
    head = text.rstrip("/").rsplit("/", 1)[-1].split("(")[0]
    return "".join(letter if letter.isalnum() or letter in "_." else "_" for letter in head) or "run"
