"""What must not be lost where a command writes to a place that nobody named."""

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

OVERWRITE_HELP = "Replace files of another model, or of another program, at the default place too."
overwrite_option = click.option("--overwrite", is_flag=True, help=OVERWRITE_HELP)
_EMBEDDED = re.compile(r'<script type="application/json" id="evaluation-\d+">(.*?)</script>', re.DOTALL)
_CARD = re.compile(r'\A---\n.*^  - "robustcls"$.*^model-index:\n  - name: ("[^\n]*")$', re.DOTALL | re.MULTILINE)


def name_of(spec: str) -> str:
    """What a model is called in the files about it; of one in a file the last part, since its folder may be moved."""
    # An address may end with a slash.
    return read_wrapped(spec).name(lambda inner: Path(inner).name if Path(inner).exists() else inner.rstrip("/"))


def default_out(spec: str, name: str) -> Path:
    """`name` beside the model's file, inside an artefact's folder, or in the current folder for a model from code.

    Of a model in wrappers, their names are part of it: `evaluation-averaged.json`.
    """
    path, wrappers = home_of(spec) / name, read_wrapped(spec).wrappers
    return path.with_stem("-".join([path.stem, *(one.name.rpartition(":")[2] for one in wrappers)]))


def home_of(spec: str, otherwise: Path = Path()) -> Path:
    """The folder of a model's files, of several those of the first; `otherwise` for a model from code."""
    path = Path(read_wrapped(spec).first)
    return path if path.is_dir() else path.parent if path.exists() else otherwise


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["robustcls", *sys.argv[1:]])


def check_not_lost(path: Path, models: Iterable[str], overwrite: bool) -> None:
    """Raises InputError where there is a file about none of these models, by their names, and it is not to be replaced."""
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
    """Copies an evaluation at `path` that holds what the new one does not to a name beside it, and says so.

    One that was kept before, and would lose nothing by it, is replaced. images, names: of image files, go with it.
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
    """Says so where the artefact that was attacked is no longer what its folder holds."""
    if not Path(spec).is_dir():
        return
    from robustcls.results.artefact import MODEL

    file = Path(spec) / MODEL
    if not file.is_file() or sha256(file) != evaluation.model.sha256:
        note(
            f"warning: {file} was replaced meanwhile: the evaluation is of the file before, attack this one again",
            False,
        )


def loses(old: "Evaluation", new: "Evaluation") -> bool:
    """Whether the new evaluation, in the place of the old one, would leave out something that took time to measure."""
    if not old.attacks and old.certified and old.certified == new.certified:
        return False  # certificates that the new one has, and clean accuracy
    return (
        _task(old) != _task(new)
        or old.data.n > new.data.n
        or bool({point.eps for point in old.curve or []} - {point.eps for point in new.curve or []})
        or any(getattr(old, one.name) and not getattr(new, one.name) for one in measures())
        or bool(old.certified and not new.certified)
        or any(after.error and not before.error for before, after in zip(old.attacks, new.attacks, strict=True))
    )


def _task(found: "Evaluation") -> str:
    """Under what, by what and on what a model was evaluated, as text."""
    attacks = [[attack.name, attack.options, attack.alone is not None] for attack in found.attacks]
    data = [found.data.name, found.data.split]
    return json.dumps([asdict(found.threat), attacks, data], sort_keys=True, default=str)


def _evaluation_at(path: Path) -> "Evaluation | None":
    from robustcls.results.records import Evaluation

    try:
        return None if is_stream(path) or not path.is_file() else Evaluation.load(path)
    except InputError:
        return None


def models_of(path: Path) -> set[str]:
    """The names of the models that an evaluation, a measures.json, a report or a model card is about; none of other files."""
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
    """Of one of our records, or of an entry of RobustBench."""
    if "autoattack_acc" in record:
        return record["name"]
    if not record["schema"].startswith("robustcls/"):
        raise ValueError
    return record["model"]["name"]


def _last(name: str) -> str:
    """Of `pgd/ckpt.pt`, ckpt.pt, also inside wrappers; `torchvision/resnet18` is a name as a whole."""
    with suppress(InputError):  # whatever a model is called
        if (named := read_wrapped(name)).wrapper:
            return named.name(_last)
    return name.rpartition("/")[2] if "." in name.rpartition("/")[2] else name
