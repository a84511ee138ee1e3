"""How far an attack moves the attribution maps, beside how far noise and chance do."""

import re
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import Context, look_up
from robustcls.reporting.figures import INK, SERIES, draw, shorten
from robustcls.reporting.html import figure, fill_file, lines, number, table
from robustcls.reporting.missing import reasons_of
from robustcls.results.records import Explanations, MethodMeasures, Spread

ORDER, TITLE = 120, "Attribution stability"

FEW = 30  # samples, below which a median says little
NOT_MEASURED = Markup('<span class="none">not measured</span>')
NO_SAMPLE = Markup('<span class="none">no sample</span>')

MEASURES = {
    "spearman": "Spearman",
    "top_k": "Top-k in common",
    "ssim": "SSIM",
    "cosine": "Cosine",
    "top_k_tolerant": "Top-k, one pixel off allowed",
}
GROUPS = {  # (against, label): (name, marker, colour, whether the marker is filled)
    ("adversarial", "kept"): ("attack, label kept", "o", SERIES[0], True),
    ("adversarial", "flipped"): ("attack, label flipped", "D", SERIES[1], True),
    ("benign_noise", ""): ("benign noise, same norm", "s", SERIES[2], False),
    ("random_map", ""): ("random map", "^", SERIES[3], False),
}
CONTROLS = {
    "benign_noise": "benign noise of the same norm, which shows how far any change of that size moves a map",
    "random_map": "a random map, which shows how alike two maps look by chance",
}


def stability(context: Context) -> Markup:
    """How like the map of a clean image is to that of the attacked one, to that under noise, and to a random map."""
    parts = [_part(context, model) for model in range(len(context.evaluations))]
    return fill_file("stability.html", context, parts=parts, absent=reasons_of(context, "stability"), few=FEW)


def show_spread(context: Context, model: int, path: str, spec: str, n: int | None = None) -> Markup:
    """`median (q1 to q3)` of the Spread at `path`; its number of samples too where that is not `n`."""
    spread = look_up(context.evaluations[model], path)
    if not spread.n:
        return NO_SAMPLE
    if spread.median is None:
        return NOT_MEASURED
    median, low, high = (number(context, model, f"{path}.{name}", spec) for name in ("median", "q1", "q3"))
    own = Markup("") if n == spread.n else Markup("<br>n = {}").format(number(context, model, f"{path}.n", ",d"))
    return Markup('{}<br><span class="ci">({} to {})</span>{}').format(median, low, high, own)


def sentence(text: str) -> str:
    """With a capital first and a full stop last; "" stays so."""
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith(".") else text + "."


def _part(context: Context, model: int) -> dict[str, object] | None:
    found = context.evaluations[model].explanations
    if found is None or not found.methods:
        return None
    sizes = [one.n for method in found.methods for one in method.likeness]
    return {
        "found": found,
        "rule": sentence(found.rule),
        "reading": _reading(found),
        "small": any(0 < size < FEW for size in sizes),
        "empty": 0 in sizes,
        "drawn": _draw(context, model, found),
        "likeness": _likeness(context, model, found),
        "methods": _methods(context, model, found),
    }


def _reading(found: Explanations) -> str:
    """How to read the likeness, with the controls that there are; what cannot be told without the others."""
    held = {one.against for method in found.methods for one in method.likeness if one.n}
    text = "1 means that two maps are the same."
    there = [words for against, words in CONTROLS.items() if against in held]
    if there:
        text += f" Read the rows of the attack beside {', and beside '.join(there)}."
    if "benign_noise" not in held:
        text += (
            " Benign noise was not compared, so the attack's part in a change cannot be told from that of any noise."
        )
    if "random_map" not in held:
        text += " Random maps were not compared, so likeness by chance is not known."
    return text


def _groups(method: MethodMeasures) -> list[tuple[tuple[str, str], int | None]]:
    """Each group with its place in the record; None where the record lacks one of ours, strangers' groups last."""
    places = {(one.against, one.label): i for i, one in enumerate(method.likeness)}
    return [(key, places.get(key)) for key in GROUPS] + [(key, i) for key, i in places.items() if key not in GROUPS]


def _name(key: tuple[str, str]) -> str:
    return GROUPS[key][0] if key in GROUPS else ", ".join(filter(None, key))


def _narrow(name: str) -> Markup:
    """On two lines where it divides, so that a wide table fits a screen; its numbers take two lines anyway."""
    return lines(re.split(r"(?=\()|(?<=,) ", name, maxsplit=1))


def _likeness(context: Context, model: int, found: Explanations) -> Markup:
    rows: list[list[Markup]] = []
    grey = []
    for i, method in enumerate(found.methods):
        for key, place in _groups(method):
            at = f"explanations.methods.{i}.likeness.{place}"
            if place is None or method.likeness[place].n < FEW:
                grey.append(len(rows))
            cells = [NOT_MEASURED] * (1 + len(MEASURES)) if place is None else _cells(context, model, at)
            rows.append([_narrow(method.method), _narrow(_name(key)), *cells])
    heads = ["Method", "Clean map against", "n", *MEASURES.values()]
    return table(f"Likeness of the maps of {context.names[model]}", heads, rows, grey=grey)


def _cells(context: Context, model: int, at: str) -> list[Markup]:
    """n and every measure of the group at a path."""
    group = look_up(context.evaluations[model], at)
    count = number(context, model, f"{at}.n", ",d")
    if not group.n:
        return [count, *[NO_SAMPLE] * len(MEASURES)]
    shown = [
        show_spread(context, model, f"{at}.measures.{key}", "z.2f", group.n) if key in group.measures else NOT_MEASURED
        for key in MEASURES
    ]
    return [count + ("" if group.n >= FEW else Markup("<br>small")), *shown]


def _methods(context: Context, model: int, found: Explanations) -> Markup:
    rows = []
    for i, method in enumerate(found.methods):
        at, measured = f"explanations.methods.{i}", "sensitivity_max" in method.quality
        noise = f"{at}.quality.sensitivity_max"
        rows.append(
            [
                method.method,
                show_spread(context, model, noise, "#.3g", method.quality["sensitivity_max"].n)
                if measured
                else NOT_MEASURED,
                number(context, model, f"{noise}.n", ",d") if measured else NOT_MEASURED,
                number(context, model, f"{at}.images_per_second", ",.1f"),
                method.note or "no note",
            ]
        )
    heads = ["Method", "Largest change under small noise (sensitivity_max)", "n", "Images a second", "Note"]
    return table(f"Attribution methods on {context.names[model]}", heads, rows)


def _draw(context: Context, model: int, found: Explanations) -> Markup | None:
    drawn = [(i, method, known) for i, method in enumerate(found.methods) if (known := _known(method))]
    if not drawn:
        return None
    name = context.names[model]
    title = f"Rank correlation (Spearman) of the maps of {name}"
    described = "; ".join(
        f"{method.method}: " + ", ".join(f"{_name(key)} {spread.median:z.2f}" for key, _, spread in known)
        for _, method, known in drawn
    )
    rows = [
        [
            method.method,
            _name(key),
            *(
                number(context, model, f"explanations.methods.{i}.likeness.{place}.measures.spearman.{field}", spec)
                for field, spec in (("n", ",d"), ("median", "z.3f"), ("q1", "z.3f"), ("q3", "z.3f"))
            ),
        ]
        for i, method, known in drawn
        for key, place, _ in known
    ]
    labelled = [(method.method, [(key, spread) for key, _, spread in known]) for _, method, known in drawn]
    svg = draw(f"stability-{model}", title, described, partial(_paint, labelled), (7.4, 1.2 + 0.8 * len(drawn)))
    heads = ["Method", "Clean map against", "n", "Median", "Lower quartile", "Upper quartile"]
    data = table(f"Data: rank correlation of the maps of {name}", heads, rows)
    faint = any(spread.n < FEW for _, _, known in drawn for _, _, spread in known)
    caption = f"{title}: median and middle half of the samples" + (f"; faint: fewer than {FEW}" if faint else "")
    return figure(f"stability-{model}", svg, caption, data)


def _known(method: MethodMeasures) -> list[tuple[tuple[str, str], int, Spread]]:
    """Our groups that have a rank correlation: key, place in the record, spread."""
    return [
        (key, place, spread)
        for key, place in _groups(method)
        if key in GROUPS and place is not None
        for spread in [method.likeness[place].measures.get("spearman")]
        if spread is not None and None not in (spread.median, spread.q1, spread.q3)
    ]


def _paint(rows: list[tuple[str, list[tuple[tuple[str, str], Spread]]]], axes: Axes) -> None:
    lows = [spread.q1 or 0.0 for _, groups in rows for _, spread in groups]  # `_known` leaves no None
    for label, marker, colour, filled in GROUPS.values():
        face = colour if filled else "none"
        axes.plot([], [], f"-{marker}", color=colour, markerfacecolor=face, markersize=6, label=label)
    order = list(GROUPS)
    for place, (_, groups) in enumerate(reversed(rows)):
        for key, spread in groups:
            _, marker, colour, filled = GROUPS[key]
            y = place + 0.3 - 0.2 * order.index(key)
            low, median, high = (value or 0.0 for value in (spread.q1, spread.median, spread.q3))
            faint = 0.6 if spread.n < FEW else 1.0
            face = colour if filled else "none"
            axes.plot([low, high], [y, y], color=colour, linewidth=2.2, alpha=0.7 * faint)
            axes.plot([median], [y], marker, color=colour, markerfacecolor=face, markersize=6.5, alpha=faint)
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.set_yticks(range(len(rows)), [shorten(name, 30) for name, _ in reversed(rows)])
    axes.set_ylim(-0.55, len(rows) - 0.45)
    axes.set_xlim(min(-0.1, *lows) - 0.05, 1.05)
    axes.set_xlabel("rank correlation with the clean map; 1: the same map", color=INK)
    axes.grid(axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
