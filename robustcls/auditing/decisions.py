"""Findings as CSV files, and the decisions that a person adds to them."""

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
FORMULA = re.compile(
    r"'*[=+\-@\t\r]"
)  # start of a cell that a spreadsheet would evaluate, possibly with quotation marks before it


@dataclass(frozen=True)
class Decision:
    """A person's decision about an image of the training split.

    Attributes:
        image: file name below the folder, or position in the split.
        label: class name at the time of the audit.
        digest: digest of the pixels.
        decision: keep, relabel or remove.
        new_label: the new class name; "" unless relabelled.
        line: line of the file with the decision; 0 if it comes from no file.
    """

    image: str
    label: str
    digest: str
    decision: str
    new_label: str = ""
    line: int = field(default=0, compare=False)


def write_findings(path: Path, findings: Iterable[Finding], classes: Sequence[str]) -> None:
    """Write one line per finding, with empty columns decision and new_label for a person to fill in.

    Images near the boundary have no guess, because the models predict their label. Names that a spreadsheet would evaluate as
    formulas are prefixed with a quotation mark, and digests with an x, so that they are not read as numbers. `read_decisions`
    removes both prefixes.
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
    """Return the decisions in a file; lines with an empty decision are skipped.

    A line with relabel but without a new class takes the guess. Raises InputError that names the first invalid line.
    """
    decisions: dict[str, Decision] = {}
    for line, row in _rows(path):
        decision = row["decision"].strip().lower()
        if not decision:
            continue
        where = f"{path}, line {line}"
        if decision not in (KEEP, RELABEL, REMOVE):
            raise InputError(
                f"{where}: decision {decision!r} is not known: write {KEEP}, {RELABEL}, {REMOVE}, or nothing"
            )
        image, label = _plain(row["image"]), _plain(row["label"])
        new = next((cell for name in ("new_label", "guess") if (cell := row.get(name, "")).strip()), "")
        if decision == RELABEL and not new:
            raise InputError(f"{where}: {quoted(image)} is to be relabelled: name its class in new_label")
        digest = row["digest"].removeprefix("x")
        one = Decision(image, label, digest, decision, _plain(new) if decision == RELABEL else "", line)
        if decisions.setdefault(image, one) != one:
            raise InputError(f"{where}: {quoted(image)} has a different decision before: keep one of the two lines")
    return list(decisions.values())


def _rows(path: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the cells by column of each line. Cells that are missing at the end are empty."""
    text, before = _text(path), 0
    delimiter = max(",;\t", key=text.partition("\n")[0].count)  # spreadsheets write other delimiters in some languages
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
        raise InputError(f"{path}, line {before + 1}: {error}: a quotation mark is missing there or later") from None


def _text(path: str | Path) -> str:
    try:
        content = Path(path).read_bytes()
        if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise InputError(f"{path} is UTF-16, as spreadsheets write Unicode text: save it as CSV in UTF-8")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"cannot read {path}: {why}: give the CSV file with decisions to `apply`") from None


def _guarded(text: str) -> str:
    return f"'{text}" if FORMULA.match(text) else text


def _plain(text: str) -> str:
    return text[1:] if text[:1] == "'" and FORMULA.match(text) else text
