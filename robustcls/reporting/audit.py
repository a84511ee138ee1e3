"""The HTML page of an audit, on which a person decides about each finding and downloads the decisions as labels.csv."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from robustcls.core.files import atomic_write
from robustcls.reporting.html import estimate, fill_page, table
from robustcls.reporting.images import show_image
from robustcls.results.audit import BOUNDARY, Audit, Duplicates, Finding

SHOWN = 200  # groups of duplicates that the page lists at most


def audit_page(audit: Audit, path: str | Path) -> Path:
    """Write the page as one HTML file that needs no network. Raises InputError if the file cannot be written."""
    text = compose_audit(audit)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return Path(path)


def compose_audit(audit: Audit) -> str:
    """Return the page as text."""
    return fill_page(
        "audit.html",
        more="audit",
        title=f"Audit of {audit.data.name}",
        images="data:",
        a=audit,
        findings=[
            {
                "number": number,
                "name": audit.name_of(one),
                "data": escape(audit.name_of(one)).replace(
                    "\r", Markup("&#13;")
                ),  # an HTML parser turns a bare carriage return into a line feed
                "finding": one,
                "said": _said(one, audit.classes),
                "guess": "" if one.reason == BOUNDARY else audit.classes[one.guess],
                "picture": None if one.picture is None else show_image(one.picture, None),
            }
            for number, one in enumerate(audit.suggestions, 1)
        ],
        pairs=table("Table of confused classes", _pairs(audit)),
        duplicates=table("Table of duplicates", _duplicates(audit.duplicates[:SHOWN], audit.classes)),
        shown=SHOWN,
    )


def _said(one: Finding, classes: Sequence[str]) -> str:
    """The label of the finding and the class that the models predict."""
    label, guess = classes[one.label], classes[one.guess]
    if one.reason == BOUNDARY:
        return f"{label}, nearest class: {guess}"
    return f"{label}, predicted as {guess}" if one.guess != one.label else f"{label}, predicted as the same"


def _pairs(audit: Audit) -> list[dict[str, Any]]:
    rows = []
    for one in audit.pairs:
        label, guess = audit.classes[one.label], audit.classes[one.guess]
        row = {"Label": label, "Predicted as": guess, "Clean": estimate(f"{label} predicted as {guess}", one.clean)}
        if one.attacked is not None and audit.threat is not None:
            row[f"Under attack, {audit.threat.text}"] = estimate(f"{label} attacked into {guess}", one.attacked)
        rows.append(row)
    return rows


def _duplicates(groups: Sequence[Duplicates], classes: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "Kind": "exact" if group.exact else f"near, {group.likeness:.2f}",
            "Across splits": "yes" if group.across else "no",
            "Labels": ", ".join(dict.fromkeys(classes[image.label] for image in group.images)),
            "Images": Markup("<br>").join(f"{image.split} {image.file or image.index}" for image in group.images),
        }
        for group in groups
    ]
