"""Findings as CSV, in which a person decides, and back."""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.core.names import quoted
from robustcls.results.audit import BOUNDARY, Finding

COLUMNS = ("image", "label", "guess", "reason", "score", "digest", "decision", "new_label")
NEEDED = ("image", "label", "digest", "decision")
KEEP, RELABEL, REMOVE = "keep", "relabel", "remove"
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # how a cell begins that a spreadsheet computes, and one that is guarded from it


@dataclass(frozen=True)
class Decision:
    """What a person decided about an image of the train split.

    Attributes:
        image: the name of its file below the folder, or its position in the split.
        label: the class that it carried then, by name.
        digest: of its pixels.
        decision: keep, relabel or remove.
        new_label: the class that it is to carry, by name; "" unless relabelled.
        line: of the file that says so; 0 where there is none.
    """

    image: str
    label: str
    digest: str
    decision: str
    new_label: str = ""
    line: int = field(default=0, compare=False)


def write_findings(path: Path, findings: Iterable[Finding], classes: Sequence[str]) -> None:
    """A line for each, with the columns decision and new_label empty: a person fills them in.

    Of an image near the boundary there is no guess: the models take it for what its label says. So that a spreadsheet runs no
    name as a formula and reads no digest as a number, a quotation mark or an x stands before it; `read_decisions` takes them
    off.
    """
    with atomic_write(path) as part, open(part, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for one in findings:
            name = str(one.index) if one.file is None else one.file
            guess = "" if one.reason == BOUNDARY else classes[one.guess]
            image, label, guess = map(_guarded, (name, classes[one.label], guess))
            writer.writerow((image, label, guess, one.reason, f"{one.rank:.6g}", f"x{one.digest}", "", ""))


def read_decisions(path: str | Path) -> list[Decision]:
    """The lines in which something was decided; those whose decision is empty are left out.

    A line that says relabel and names no class takes the guess. Raises InputError that names the first line that is wrong.
    """
    made: dict[str, Decision] = {}
    for line, row in _rows(path):
        said = row["decision"].strip().lower()
        if not said:
            continue
        where = f"{path}, line {line}"
        if said not in (KEEP, RELABEL, REMOVE):
            raise InputError(f"{where}: decision {said!r} is not known: write {KEEP}, {RELABEL}, {REMOVE}, or nothing")
        image, label = _plain(row["image"]), _plain(row["label"])
        new = next((cell for name in ("new_label", "guess") if (cell := row.get(name, "")).strip()), "")
        if said == RELABEL and not new:
            raise InputError(f"{where}: {quoted(image)} is to be relabelled: name its class in new_label")
        digest = row["digest"].removeprefix("x")
        one = Decision(image, label, digest, said, _plain(new) if said == RELABEL else "", line)
        if made.setdefault(image, one) != one:
            raise InputError(f"{where}: {quoted(image)} was decided otherwise before: leave one of the two lines")
    return list(made.values())


def _rows(path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a table, by column, each with its number; cells that are missing at the end of one are empty."""
    text, before = _text(path), 0
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # as spreadsheets of other languages write them
    rows = csv.DictReader(io.StringIO(text, newline=""), restval="", delimiter=delimiter, strict=True)
    try:
        if missing := [name for name in NEEDED if name not in (rows.fieldnames or ())]:
            raise InputError(
                f"{path} has no column {missing[0]!r}: give issues.csv, suggest.csv or the labels.csv of the page"
            )
        for row in rows:
            before = rows.line_num
            if any(row.pop(None, ())):
                raise InputError(
                    f"{path}, line {before} has more cells than the first: quote names that hold {delimiter!r}"
                )
            yield before, row
    except csv.Error as error:
        raise InputError(f"{path}, line {before + 1}: {error}: a quotation mark is missing, there or behind") from None


def _text(path: str | Path) -> str:
    try:
        found = Path(path).read_bytes()
        if found[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise InputError(f"{path} is UTF-16, as spreadsheets write Unicode text: save it as CSV in UTF-8")
        return found.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise InputError(f"cannot read {path}: {why}: give the CSV file with decisions to `apply`") from None


def _guarded(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text


def _plain(text: str) -> str:
    return text[1:] if text[:1] == "'" and FORMULA.match(text) else text
