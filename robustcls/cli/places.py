"""Default output paths, and protection of existing files when the user has not named an output path."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustcls.cli.console import note
from robustcls.core.errors import InputError
from robustcls.core.files import is_stream, sha256
from robustcls.core.measures import measures
from robustcls.core.wrapped import read_wrapped

if TYPE_CHECKING:
    from robustcls.results.records import Evaluation

OVERWRITE_HELP = "Replace files at the default path even if they are about another model or from another program."
overwrite_option = click.option("--overwrite", is_flag=True, help=OVERWRITE_HELP)
_EMBEDDED = re.compile(r'<script type="application/json" id="evaluation-\d+">(.*?)</script>', re.DOTALL)
_CARD = re.compile(r'\A---\n.*^  - "robustcls"$.*^model-index:\n  - name: ("[^\n]*")$', re.DOTALL | re.MULTILINE)


def name_of(spec: str) -> str:
    """Return the name of a model in output files. For a model in a file it is the file name, since its folder may move."""
    # A URL may end with a slash.
    return read_wrapped(spec).name(lambda inner: Path(inner).name if Path(inner).exists() else inner.rstrip("/"))


def default_out(spec: str, name: str) -> Path:
    """Return the path of `name` beside the model's file, in the folder of an artefact, or in the current folder for code.

    For a model in wrappers, the file name contains their names: `evaluation-averaged.json`.
    """
    path, wrappers = home_of(spec) / name, read_wrapped(spec).wrappers
    return path.with_stem("-".join([path.stem, *(one.name.rpartition(":")[2] for one in wrappers)]))


def home_of(spec: str, otherwise: Path = Path()) -> Path:
    """Return the folder of a model's file (of the first, for several models), or `otherwise` for a model from code."""
    path = Path(read_wrapped(spec).first)
    return path if path.is_dir() else path.parent if path.exists() else otherwise


def command_line() -> str:
    """Return the command line as it was typed."""
    return shlex.join(["robustcls", *sys.argv[1:]])


def check_not_lost(path: Path, models: Iterable[str], overwrite: bool) -> None:
    """Raise InputError if `path` is a file about none of the models with these names and `overwrite` is off."""
    if overwrite or is_stream(path) or not path.is_file() or not path.stat().st_size:
        return
    from robustcls.reporting.scrub import scrub_text

    before = models_of(path)
    wanted = {scrub_text(name) for name in models}
    if before & wanted or {_last(name) for name in before} & wanted:
        return
    whose = f"is about another model, {min(before)}" if before else "was not made by this command"
    raise InputError(f"{path} {whose}: move it away, or replace it with --overwrite")


def keep_earlier(path: Path, new: "Evaluation", *, images: bool = True, names: bool = True) -> None:
    """Copy an evaluation at `path` to a file beside it if it contains results that the new one lacks, and print a note.

    An earlier copy is replaced if that loses nothing. images, names: whether the copy keeps image data and file names.
    """
    from robustcls.reporting.scrub import without_arrays, without_file_names

    old = _evaluation_at(path)
    if old is None or not loses(old, new):
        return
    for number in count(1):
        kept = path.with_name(f"{path.stem}-earlier{f'-{number}' if number > 1 else ''}{path.suffix}")
        before = _evaluation_at(kept)
        if not os.path.lexists(kept) or (before and before.model.sha256 == old.model.sha256 and not loses(before, old)):
            break
    old = old if images else without_arrays(old)
    (old if names else without_file_names(old)).save(kept)
    kind = old.robust.kind.removeprefix("upper bound: ")
    threat = old.threat.text
    note(f"kept the earlier evaluation ({kind}, {threat}, n = {old.data.n}) as {kept}", quiet=False)


def note_if_replaced(spec: str, evaluation: "Evaluation") -> None:
    """Print a warning if the file of the attacked artefact was replaced during the evaluation."""
    if not Path(spec).is_dir():
        return
    from robustcls.results.artefact import MODEL

    file = Path(spec) / MODEL
    if not file.is_file() or sha256(file) != evaluation.model.sha256:
        note(
            f"warning: {file} was replaced meanwhile: the evaluation is about the earlier file, attack the new one again",
            False,
        )


def loses(old: "Evaluation", new: "Evaluation") -> bool:
    """Whether replacing the old evaluation by the new one would lose results that took time to measure."""
    if not old.attacks and old.certified and old.certified == new.certified:
        return False  # the old one has only certificates, which the new one has too, and clean accuracy
    return (
        _task(old) != _task(new)
        or old.data.n > new.data.n
        or bool({point.eps for point in old.curve or []} - {point.eps for point in new.curve or []})
        or any(getattr(old, one.name) and not getattr(new, one.name) for one in measures())
        or bool(old.certified and not new.certified)
        or any(after.error and not before.error for before, after in zip(old.attacks, new.attacks, strict=True))
    )


def _task(evaluation: "Evaluation") -> str:
    """Return the threat model, the attacks and the data of an evaluation as text, for comparison."""
    attacks = [[attack.name, attack.options, attack.alone is not None] for attack in evaluation.attacks]
    data = [evaluation.data.name, evaluation.data.split]
    return json.dumps([asdict(evaluation.threat), attacks, data], sort_keys=True, default=str)


def _evaluation_at(path: Path) -> "Evaluation | None":
    from robustcls.results.records import Evaluation

    try:
        return None if is_stream(path) or not path.is_file() else Evaluation.load(path)
    except InputError:
        return None


def models_of(path: Path) -> set[str]:
    """Return the names of the models in an evaluation, measures.json, report or model card; an empty set for other files."""
    from robustcls.reporting.scrub import scrub_text

    try:
        text = path.read_text(encoding="utf-8")
        if card := _CARD.match(text):
            return {scrub_text(json.loads(card[1]))}
        records = [json.loads(one) for one in _EMBEDDED.findall(text)] or [json.loads(text)]
        return {scrub_text(_name(record)) for record in records}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def _name(record: Any) -> str:
    """Return the model name of a robustcls record, or of a RobustBench entry."""
    if "autoattack_acc" in record:
        return record["name"]
    if not record["schema"].startswith("robustcls/"):
        raise ValueError
    return record["model"]["name"]


def _last(name: str) -> str:
    """Return the file name of a path, also inside wrappers: ckpt.pt of `pgd/ckpt.pt`. `torchvision/resnet18` stays whole."""
    with suppress(InputError):  # a model name may contain any characters
        if (named := read_wrapped(name)).wrapper:
            return named.name(_last)
    return name.rpartition("/")[2] if "." in name.rpartition("/")[2] else name
