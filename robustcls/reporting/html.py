"""The pieces that sections are built from. Everything that is not Markup is escaped."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from robustcls.reporting.context import Context, look_up
from robustcls.results.records import Accuracy, Estimate

ASSETS = Path(__file__).parent / "assets"
_STATUS = {  # icon and words; the colour is in style.css
    "pass": ("✓", "pass"),
    "warn": ("!", "warn"),
    "fail": ("✕", "fail"),
    "not_run": ("○", "not run"),
    "PASS": ("✓", "PASS"),
    "WARN": ("!", "WARN"),
    "FAIL": ("✕", "FAIL"),
    "INCONCLUSIVE": ("?", "INCONCLUSIVE"),
    "NOT JUDGED": ("–", "NOT JUDGED"),
}


def fill(template: str, context: Context, **values: Any) -> Markup:
    """A section's template with `values`; it also sees `c` (the context) and the functions of this file."""
    return Markup(_compiled(template).render(**seen(context), **values))


def fill_file(name: str, context: Context, **values: Any) -> Markup:
    """The same with a template of ours, `name` in the folder assets."""
    return Markup(environment().get_template(name).render(**seen(context), **values))


def seen(context: Context) -> dict[str, Any]:
    """What every template sees besides the functions of this file."""
    return {"c": context, "n": partial(number, context)}


def dress() -> dict[str, Markup | str]:
    """What a whole page wears: our style, our script, and the digest by which its policy allows the script."""
    script = Markup((ASSETS / "report.js").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"css": Markup((ASSETS / "style.css").read_text(encoding="utf-8")), "script": script, "digest": digest}


def number(context: Context, model: int, path: str, spec: str) -> Markup:
    """The value at `path` of the evaluation, formatted by `spec`, with both written beside it for whoever checks it."""
    value = look_up(context.evaluations[model], path)
    if value is None:
        return Markup('<span class="none">not measured</span>')
    return Markup('<span class="n" data-model="{}" data-path="{}" data-format="{}">{}</span>').format(
        model, path, spec, format(value, spec)
    )


def derived(name: str, value: float, spec: str) -> Markup:
    """A number that the evaluation does not hold, with the name of what it is."""
    return Markup('<span class="n" data-derived="{}" data-value="{}" data-format="{}">{}</span>').format(
        name, repr(value), spec, format(value, spec)
    )


def interval(context: Context, model: int, path: str) -> Markup:
    """An Accuracy as `43.1% [40.0%, 46.2%]`."""
    low, high = (number(context, model, f"{path}.ci95.{i}", ".1%") for i in (0, 1))
    return Markup('{} <span class="ci">[{}, {}]</span>').format(
        number(context, model, f"{path}.accuracy", ".1%"), low, high
    )


def estimate(name: str, found: Accuracy | Estimate | None, spec: str) -> Markup:
    """A value that need not stand in the evaluation, with its interval: `0.913 [0.871, 0.942]`."""
    if found is None:
        return Markup('<span class="none">not measured</span>')
    low, high = (derived(f"{name}, {end}", bound, spec) for end, bound in zip(("low", "high"), found.ci95, strict=True))
    return Markup('{} <span class="ci">[{}, {}]</span>').format(derived(name, found.value, spec), low, high)


def points(name: str, value: float) -> Markup:
    """A difference of two shares, in points of a hundred."""
    return derived(name, 100 * value, "+z.1f")


def p_value(name: str, p: float) -> Markup:
    """`p = 0.034`, or `p < 0.0001` where more digits mean nothing."""
    return Markup("p = {}").format(derived(name, p, ".2g")) if p >= 1e-4 else Markup("p &lt; 0.0001")


def badge(status: str) -> Markup:
    """A status as icon, word and colour."""
    icon, word = _STATUS.get(status, ("?", status))
    kind = status.lower().replace("_", "-").replace(" ", "-")
    return Markup('<span class="badge is-{}"><span aria-hidden="true">{}</span> {}</span>').format(kind, icon, word)


def not_run(reason: str) -> Markup:
    return Markup('<p class="notrun">{} {}</p>').format(badge("not_run"), reason)


def model_tag(context: Context, model: int) -> Markup:
    """The model's name with its colour."""
    return Markup('<span class="tag m{}"><i aria-hidden="true"></i>{}</span>').format(model % 4, context.names[model])


def scroll(label: str, body: Markup) -> Markup:
    """A box that scrolls sideways by itself, reachable by keyboard. `label` must be the only one of its kind."""
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>').format(label, body)


def table(
    label: str, heads: Sequence[Any], rows: Iterable[Sequence[Any]], *, sortable: bool = True, grey: Iterable[int] = ()
) -> Markup:
    """A table in a scroll box. Columns of numbers align right, long texts get room. `grey`: the rows to dim."""
    rows, grey = [list(row) for row in rows], set(grey)
    kinds = [_align([row[i] for row in rows]) for i in range(len(heads))]
    cell = Markup("<{}{}>{}</{}>")
    head = Markup("").join(
        cell.format(Markup('th scope="col"'), kind, text, "th") for text, kind in zip(heads, kinds, strict=True)
    )
    body = Markup("").join(
        Markup("<tr{}>{}</tr>\n").format(
            Markup(' class="grey"') if i in grey else "",
            Markup("").join(cell.format("td", kind, text, "td") for text, kind in zip(row, kinds, strict=True)),
        )
        for i, row in enumerate(rows)
    )
    sorts = Markup(' class="sortable"') if sortable and len(rows) > 1 else ""
    whole = Markup("<table{}><thead><tr>{}</tr></thead><tbody>\n{}</tbody></table>").format(sorts, head, body)
    return scroll(label, whole)


def _align(column: Sequence[Any]) -> Markup:
    if any(str(text).startswith('<span class="n"') for text in column):
        return Markup(' class="num"')
    long = any(len(text) > 36 and not isinstance(text, Markup) for text in column)
    return Markup(' class="prose"') if long else Markup("")


def heat_table(
    label: str,
    name: str,
    corner: str,
    names: Sequence[str],
    counts: Sequence[Sequence[int]],
    tints: Sequence[Sequence[float]],
) -> Markup:
    """A square table of counts, each called `name` and tinted by a share in [0, 1]; the number is always there."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(one) for one in names)
    body = Markup("").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>\n').format(
            one,
            Markup("").join(
                Markup('<td class="num{}" style="--heat:{}%">{}</td>').format(
                    " own" if i == j else "", round(100 * tint), derived(name, count, ",d")
                )
                for j, (count, tint) in enumerate(zip(row, shares, strict=True))
            ),
        )
        for i, (one, row, shares) in enumerate(zip(names, counts, tints, strict=True))
    )
    whole = '<table class="heat"><thead><tr><th scope="col">{}</th>{}</tr></thead><tbody>\n{}</tbody></table>'
    return scroll(label, Markup(whole).format(corner, head, body))


def figure(name: str, svg: Markup, caption: str, data: Markup) -> Markup:
    """A drawn figure with its caption and the numbers behind it."""
    return Markup(
        '<figure class="plot" id="figure-{}"><div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>'
        "<figcaption>{}</figcaption><details><summary>Data behind this figure</summary>{}</details></figure>"
    ).format(name, f"Figure: {caption}", svg, caption, data)


@cache
def environment() -> Environment:
    """Jinja2 that escapes everything, and fails on a name that a template misspells."""
    made = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: "not recorded" if value is None else value,
    )
    made.globals.update(
        derived=derived,
        interval=interval,
        points=points,
        p_value=p_value,
        badge=badge,
        not_run=not_run,
        model_tag=model_tag,
        table=table,
        scroll=scroll,
        figure=figure,
    )
    return made


@cache
def _compiled(template: str) -> Template:
    return environment().from_string(template)


def lines(texts: Iterable[Any]) -> Markup:
    return Markup("<br>").join(escape(text) for text in texts)
