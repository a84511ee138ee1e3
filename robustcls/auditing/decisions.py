"""Findings as CSV, in which a person decides, and back."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import atomic_write
from robustcls.core.names import quoted
from robustcls.results.audit import BOUNDARY, Finding

COLUMNS = ("image", "label", "guess", "reason", "score", "digest", "decision", "new_label")
NEEDED = ("image", "label", "digest", "decision")
KEEP, RELABEL, REMOVE = "keep", "relabel", "remove"


@dataclass(frozen=True)
class Decision:
    """What a person decided about an image of the train split.

    Attributes:
        image: the name of its file below the folder, or its position in the split.
        label: the class that it carried then, by name.
        digest: of its pixels.
        decision: keep, relabel or remove.
        new_label: the class that it is to carry, by name; "" unless relabelled.
    """

    image: str
    label: str
    digest: str
    decision: str
    new_label: str = ""


def write_findings(path: Path, findings: Iterable[Finding], classes: Sequence[str]) -> None:
    """A line for each, with the columns decision and new_label empty: a person fills them in.

    Of an image near the boundary there is no guess: the models take it for what its label says.
    """
    with atomic_write(path) as part, open(part, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for one in findings:
            name = str(one.index) if one.file is None else one.file
            guess = "" if one.reason == BOUNDARY else classes[one.guess]
            writer.writerow((name, classes[one.label], guess, one.reason, f"{one.score:.6g}", one.digest, "", ""))


def read_decisions(path: str | Path) -> list[Decision]:
    """The lines in which something was decided; those whose decision is empty are left out.

    A line that says relabel and names no class takes the guess. Raises InputError that names the first line that is wrong.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"cannot read {path}: {why}: give the CSV file with decisions to `apply`") from None
    rows = csv.DictReader(text.splitlines())
    if missing := [name for name in NEEDED if name not in (rows.fieldnames or ())]:
        raise InputError(
            f"{path} has no column {missing[0]!r}: give issues.csv, suggest.csv or the labels.csv of the page"
        )
    made: dict[str, Decision] = {}
    for row in rows:
        said = (row["decision"] or "").strip().lower()
        if not said:
            continue
        where = f"{path}, line {rows.line_num}"
        if said not in (KEEP, RELABEL, REMOVE):
            raise InputError(f"{where}: decision {said!r} is not known: write {KEEP}, {RELABEL}, {REMOVE}, or nothing")
        new = (row.get("new_label") or row.get("guess") or "").strip() if said == RELABEL else ""
        if said == RELABEL and not new:
            raise InputError(f"{where}: {quoted(row['image'])} is to be relabelled: name its class in new_label")
        one = Decision(row["image"], row["label"], row["digest"], said, new)
        if made.setdefault(one.image, one) != one:
            raise InputError(f"{where}: {quoted(one.image)} was decided otherwise before: leave one of the two lines")
    return list(made.values())
