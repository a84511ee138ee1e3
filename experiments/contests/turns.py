"""Run a contestant's turn in its own process, and read the result that it prints at the end."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from robustcls.core.files import atomic_write
from robustcls.data.images import Images


def hand_over(images: Images, file: Path) -> str:
    """Write the images of a task to a file for the processes of its contestants, and return the path."""
    content = {"pixels": images.pixels, "labels": images.labels, "classes": list(images.classes)}
    with atomic_write(file, "TMPDIR") as part:
        torch.save(content, part)
    return str(file)


class TurnError(Exception):
    """A contestant failed; the message is one line."""


def take_turn(home: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return what the contestant measured. Raises TurnError.

    Its process inherits the folder and the environment, and with it the number of threads.
    """
    file = home / "task.json"
    file.write_text(json.dumps(task), encoding="utf-8")
    command = [sys.executable, "-m", "experiments.contests.contestant", str(file)]
    places = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode < 0:
        raise TurnError(f"ended by signal {-done.returncode}: out of memory?")
    if done.returncode:
        raise TurnError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return json.loads(done.stdout.splitlines()[-1])
