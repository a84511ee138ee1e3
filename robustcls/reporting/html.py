"""What sections are built from, as macros of assets/macros.html. Everything that is not Markup is escaped."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from robustcls.core.measures import FOLDER
from robustcls.results import balance
from robustcls.results.records import Accuracy, Estimate

if TYPE_CHECKING:
    from robustcls.reporting.context import Context

ASSETS = Path(__file__).parent / "assets"
Row = Mapping[str, Any]  # the cells of a table, by the head of their column
_ICONS = {"pass": "✓", "warn": "!", "fail": "✕", "not-run": "○", "inconclusive": "?", "not-judged": "–"}


def fill(template: str, context: "Context", **values: Any) -> Markup:
    """A section's template with `values`; it also sees `c` (the context), `n` and the macros."""
    return Markup(_compiled(template).render(c=context, n=context.number, **values))


def fill_file(name: str, context: "Context", **values: Any) -> Markup:
    """The same with a template of ours, `name` in the folder assets, or `measure/section.html`."""
    return Markup(environment().get_template(name).render(c=context, n=context.number, **values))


def fill_page(name: str, more: str = "", **values: Any) -> str:
    """A whole page in our style, with our script and the digest by which its policy allows the script.

    more: the name of a script and a style sheet in the folder assets that are put behind ours, without the ending.
    """
    script, css = (
        Markup(
            "".join(
                (ASSETS / file).read_text(encoding="utf-8") for file in (first, *([f"{more}.{end}"] if more else []))
            )
        )
        for first, end in (("report.js", "js"), ("style.css", "css"))
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment().get_template(name).render(css=css, script=script, digest=digest, **values).rstrip("\n") + "\n"


def piece(macro: str, *values: Any) -> Markup:
    """What a macro of macros.html makes of the values."""
    made: Markup = getattr(_macros(), macro)(*values)
    return made


def derived(name: str, value: float, spec: str) -> Markup:
    """A number that the evaluation does not hold, with the name of what it is."""
    return piece("derived", name, repr(value), spec, format(value, spec))


def share(name: str, value: float) -> Markup:
    """A share that the evaluation does not hold, in percent."""
    return derived(name, value, ".1%")


def points(name: str, value: float) -> Markup:
    """A difference of two shares, in points of a hundred."""
    return derived(name, 100 * value, "+z.1f")


def between(ends: tuple[float, float], show: Callable[[str, float], Markup] = share) -> Markup:
    """An interval in words: `40.0% to 46.2%`."""
    return piece("between", *(show(name, end) for name, end in zip(("low", "high"), ends, strict=True)))


def estimate(name: str, found: Accuracy | Estimate | None, spec: str = ".1%") -> Markup:
    """A value that need not be in the evaluation, with its interval: `0.913 [0.871, 0.942]`."""
    if found is None:
        return lacking()
    low, high = found.ci95
    ends = derived(f"{name}, low", low, spec), derived(f"{name}, high", high, spec)
    return piece("interval", derived(name, found.value, spec), *ends)


def p_value(name: str, p: float) -> Markup:
    """`p = 0.034`, or `p < 0.0001` where more digits mean nothing."""
    return lines(["p = "]) + derived(name, p, ".2g") if p >= 1e-4 else escape("p < 0.0001")


def lacking(word: str = "not measured") -> Markup:
    """In place of a number that is not there."""
    return piece("lacking", word)


def badge(status: str) -> Markup:
    """A status as icon, word and colour."""
    kind = re.sub("[_ ]", "-", status.lower())
    return piece("badge", kind, _ICONS.get(kind, "?"), status.replace("_", " ") if kind in _ICONS else status)


def not_run(reason: str) -> Markup:
    """Says that something was not measured, and why."""
    return piece("not_run", badge("not_run"), reason)


def lines(texts: Iterable[Any]) -> Markup:
    return Markup("<br>").join(escape(text) for text in texts)


def table(label: str, rows: Sequence[Row], *, sortable: bool = True, grey: Iterable[int] = ()) -> Markup:
    """A table in a box that scrolls sideways; nothing where there are no rows.

    Columns of numbers align right, long texts get room. label: the only one of its kind on the page. grey: the rows to dim.
    """
    if not rows:
        return Markup("")
    cells = [list(row.values()) for row in rows]
    kinds = [_align(column) for column in zip(*cells, strict=True)]
    return piece("table", label, list(rows[0]), cells, kinds, set(grey), sortable and len(rows) > 1)


def _align(column: Sequence[Any]) -> Markup:
    if any(str(text).startswith('<span class="n"') for text in column):
        return Markup(' class="num"')
    long = any(len(text) > 36 and not isinstance(text, Markup) for text in column)
    return Markup(' class="prose"') if long else Markup("")


def heat_table(
    label: str, name: str, corner: str, names: Sequence[str], counts: Sequence[Sequence[int]], most: Sequence[int]
) -> Markup:
    """A square table of counts, each called `name` and tinted by its share of `most` of its row."""
    rows = [
        [(count / (whole or 1), derived(name, count, ",d")) for count in row]
        for row, whole in zip(counts, most, strict=True)
    ]
    return piece("heat_table", label, corner, names, rows)


@cache
def environment() -> Environment:
    """Jinja2 that escapes everything, and fails on a name that a template misspells."""
    made = Environment(
        loader=FileSystemLoader([ASSETS, FOLDER]),
        extensions=["jinja2.ext.do"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "not recorded" if value is None else value,
    )
    for function in (derived, share, points, between, estimate, p_value, lacking, badge, not_run, lines, table, piece):
        made.globals[function.__name__] = function
    made.globals["balance"] = balance
    return made


@cache
def _macros() -> Any:
    return environment().get_template("macros.html").module


@cache
def _compiled(template: str) -> Template:
    return environment().from_string(template)
