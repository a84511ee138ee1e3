"""The page of an audit, on which a person decides, and which gives the decisions as a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from robustcls.core.files import atomic_write
from robustcls.reporting.html import estimate, fill_page, table
from robustcls.reporting.images import show_image
from robustcls.results.audit import BOUNDARY, Audit, Duplicates, Finding

SHOWN = 200  # groups of duplicates


def audit_page(audit: Audit, path: str | Path) -> Path:
    """Writes the page as one HTML file that needs no network. Raises InputError where it cannot be written."""
    text = compose_audit(audit)
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
    return Path(path)


def compose_audit(audit: Audit) -> str:
    """The page as text."""
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
                ),  # else it would be read as a line feed
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
    """Its label, and what the models say."""
    label, guess = classes[one.label], classes[one.guess]
    if one.reason == BOUNDARY:
        return f"{label}, nearest: {guess}"
    return f"{label}, taken for {guess}" if one.guess != one.label else f"{label}, taken for the same"


def _pairs(audit: Audit) -> list[dict[str, Any]]:
    rows = []
    for one in audit.pairs:
        label, guess = audit.classes[one.label], audit.classes[one.guess]
        row = {"Label": label, "Taken for": guess, "Clean": estimate(f"{label} taken for {guess}", one.clean)}
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
