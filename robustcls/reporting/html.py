"""Building blocks of sections, from the macros in assets/macros.html. Every text that is not Markup is escaped."""

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
Row = Mapping[str, Any]  # the cells of one row of a table, by the heads of the columns
_ICONS = {"pass": "✓", "warn": "!", "fail": "✕", "not-run": "○", "inconclusive": "?", "not-judged": "–"}


def fill(template: str, context: "Context", **values: Any) -> Markup:
    """Render a section's template with `values`. The template also sees `c` (the context), `n` and the building blocks."""
    return Markup(_compiled(template).render(c=context, n=context.number, **values))


def fill_file(name: str, context: "Context", **values: Any) -> Markup:
    """Like `fill`, with a template file of the package: `name` in the folder assets, or `measure/section.html`."""
    return Markup(environment().get_template(name).render(c=context, n=context.number, **values))


def fill_page(name: str, more: str = "", **values: Any) -> str:
    """Render a whole page with the style sheet, the script and the digest that its content security policy needs to allow it.

    more: base name of an additional script and style sheet in the folder assets, appended to report.js and style.css.
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
    """Return the HTML that a macro of macros.html makes from the values."""
    made: Markup = getattr(_macros(), macro)(*values)
    return made


def derived(name: str, value: float, spec: str) -> Markup:
    """A computed number, which is not in the evaluation itself, marked with its name."""
    return piece("derived", name, repr(value), spec, format(value, spec))


def share(name: str, value: float) -> Markup:
    """A computed share, in percent."""
    return derived(name, value, ".1%")


def points(name: str, value: float) -> Markup:
    """A difference of two shares, in percentage points."""
    return derived(name, 100 * value, "+z.1f")


def between(ends: tuple[float, float], show: Callable[[str, float], Markup] = share) -> Markup:
    """An interval in words: `40.0% to 46.2%`."""
    return piece("between", *(show(name, end) for name, end in zip(("low", "high"), ends, strict=True)))


def estimate(name: str, found: Accuracy | Estimate | None, spec: str = ".1%") -> Markup:
    """A computed value with its interval: `0.913 [0.871, 0.942]`; "not measured" for None."""
    if found is None:
        return lacking()
    low, high = found.ci95
    ends = derived(f"{name}, low", low, spec), derived(f"{name}, high", high, spec)
    return piece("interval", derived(name, found.value, spec), *ends)


def p_value(name: str, p: float) -> Markup:
    """A p-value as `p = 0.034`, or `p < 0.0001` for smaller values."""
    return lines(["p = "]) + derived(name, p, ".2g") if p >= 1e-4 else escape("p < 0.0001")


def lacking(word: str = "not measured") -> Markup:
    """The text that is shown in place of a missing number."""
    return piece("lacking", word)


def badge(status: str) -> Markup:
    """A status, shown by an icon, a word and a colour."""
    kind = re.sub("[_ ]", "-", status.lower())
    return piece("badge", kind, _ICONS.get(kind, "?"), status.replace("_", " ") if kind in _ICONS else status)


def not_run(reason: str) -> Markup:
    """A line that says that something was not measured, and why."""
    return piece("not_run", badge("not_run"), reason)


def lines(texts: Iterable[Any]) -> Markup:
    """The texts, one a line."""
    return Markup("<br>").join(escape(text) for text in texts)


def table(label: str, rows: Sequence[Row], *, sortable: bool = True, grey: Iterable[int] = ()) -> Markup:
    """A table in a box that scrolls sideways; empty if there are no rows.

    Columns of numbers are aligned right, and columns of long texts are wider. label: unique on the page. grey: indices of the
    rows to dim.
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
    """A square table of counts. Each cell is named `name` and tinted by its count divided by the row's value in `most`."""
    rows = [
        [(count / (whole or 1), derived(name, count, ",d")) for count in row]
        for row, whole in zip(counts, most, strict=True)
    ]
    return piece("heat_table", label, corner, names, rows)


@cache
def environment() -> Environment:
    """The Jinja2 environment: it escapes all values, and fails on a name that is not defined."""
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
