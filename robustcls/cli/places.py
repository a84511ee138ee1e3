"""What must not be lost where a command writes to a place that nobody named."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from robustcls.core.errors import InputError
from robustcls.core.files import is_stream
from robustcls.reporting.scrub import scrub_text

overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace files of another model, or of somebody else, at the default place too."
)
_EMBEDDED = re.compile(r'<script type="application/json" id="evaluation-\d+">(.*?)</script>', re.DOTALL)
_CARD = re.compile(r'\A---\n.*^  - "robustcls"$.*^model-index:\n  - name: ("[^\n]*")$', re.DOTALL | re.MULTILINE)


def name_of(spec: str) -> str:
    """What a model is called in the files about it; of one in a file the last part, since its folder may be moved."""
    return Path(spec).name if Path(spec).exists() else spec


def check_not_lost(path: Path, models: Iterable[str], overwrite: bool) -> None:
    """Raises InputError where there is a file about none of these models, by their names, and it is not to be replaced."""
    if overwrite or is_stream(path) or not path.is_file() or not path.stat().st_size:
        return
    before = models_of(path)
    wanted = {scrub_text(name) for name in models}
    if before & wanted or {_last(name) for name in before} & wanted:
        return
    whose = f"is about another model, {min(before)}" if before else "was not made by this command"
    raise InputError(f"{path} {whose}: move it away, or replace it with --overwrite")


def models_of(path: Path) -> set[str]:
    """The names of the models that an evaluation, a measures.json, a report or a model card is about; none of other files."""
    try:
        text = path.read_text(encoding="utf-8")
        if card := _CARD.match(text):
            return {scrub_text(json.loads(card[1]))}
        records = [json.loads(one) for one in _EMBEDDED.findall(text)] or [json.loads(text)]
        return {scrub_text(_name(record)) for record in records}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _name(record: Any) -> str:
    """Of one of our records, or of an entry of RobustBench."""
    if "autoattack_acc" in record:
        return record["name"]
    if not record["schema"].startswith("robustcls/"):
        raise ValueError
    return record["model"]["name"]


def _last(name: str) -> str:
    """Of `pgd/ckpt.pt`, ckpt.pt; `torchvision/resnet18` is a name as a whole."""
    return name.rpartition("/")[2] if "." in name.rpartition("/")[2] else name
