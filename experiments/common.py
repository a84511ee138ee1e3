"""What the scripts of several experiments share: they run robustcls, keep results as JSON and shorten evaluations."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from robustcls import Evaluation
from robustcls.core.files import atomic_write

REPORTS = Path(__file__).resolve().parents[1] / "reports"


def command(*words: object, capture: bool = False) -> str:
    """Run robustcls and return what it prints, or "" without `capture`; exit with its status if it fails."""
    arguments = [sys.executable, "-m", "robustcls", *map(str, words)]
    done = subprocess.run(arguments, text=True, stdout=subprocess.PIPE if capture else None)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def train(run: Path, *options: object) -> None:
    """Train into a folder, or resume the run that was interrupted there; nothing happens to a finished run.

    Exits if the folder was made with other options.
    """
    _check_options(run, (run / "last.pt").exists(), options)
    command("train", *(["--resume", run] if (run / "last.pt").exists() else [*options, "--out", run]))


def attack(model: Path, *options: object) -> Evaluation:
    """Return the evaluation.json beside a checkpoint; if there is none, attack the model first.

    Exits if the file was made with other options.
    """
    file = model.with_name("evaluation.json")
    _check_options(file, file.exists(), (model.name, *options))
    if not file.exists():
        command("attack", "--model", model, *options, "--resume", "--out", file)
    return Evaluation.load(file)


def _check_options(made: Path, exists: bool, options: Iterable[object]) -> None:
    """Record the options with which a file or folder is made; exit if it exists and was made with other ones."""
    note, words = made.with_name(f"{made.name}.options"), shlex.join(map(str, options))
    if exists and (not note.exists() or note.read_text(encoding="utf-8") != words):
        sys.exit(f"{made} was made with other options: give another folder with --work, or remove it")
    with atomic_write(note) as part:
        part.write_text(words, encoding="utf-8")


def history(run: Path) -> list[dict[str, Any]]:
    """Return the epochs of a training run, as in its history.jsonl."""
    return [json.loads(line) for line in (run / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def epochs(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the number of epochs in a history and the seconds that they took."""
    return {"run": len(rows), "seconds": round(sum(epoch["seconds"] for epoch in rows), 1)}


def outcome(found: Evaluation) -> dict[str, Any]:
    """Return what is published of an evaluation: counts, self-checks that warn or fail, and what it was measured on."""
    return {
        "clean": {"correct": found.clean.correct, "total": found.clean.total},
        "robust": {"correct": found.robust.correct, "total": found.robust.total, "kind": found.robust.kind},
        "threat": f"{found.threat.norm} {found.threat.eps_text}",
        "checks": {one.id: one.status for one in found.checks if one.status in ("warn", "fail")},
        "data_sha256": found.data.sha256,
        "versions": found.provenance.versions,
        "device": found.provenance.device,
        "commit": found.provenance.commit,
    }


def percent(counts: dict[str, Any]) -> float:
    """Return the percentage of `clean` or `robust` of an `outcome`."""
    return 100 * counts["correct"] / counts["total"]


def bits(values: Iterable[bool]) -> str:
    """Return one digit per value; 1 is true."""
    return "".join("01"[value] for value in values)


def flags(digits: str) -> list[bool]:
    """Return the flags from which `bits` made the digits."""
    return [digit == "1" for digit in digits]


def read(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file, or no rows if there is no file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": []}


def write(found: dict[str, Any], file: Path) -> None:
    """Write results as JSON, atomically; missing folders are made."""
    with atomic_write(file) as part:
        part.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
