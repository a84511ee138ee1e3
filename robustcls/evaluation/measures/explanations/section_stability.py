"""The section Attribution stability: how much attacks change attribution maps, compared with noise and with chance."""

import re
from collections.abc import Iterator
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import FEW, Context, Model, sentence
from robustcls.reporting.figures import DOTTED, INK, SERIES, legend_above, plot, shorten
from robustcls.reporting.html import fill_file, lines
from robustcls.reporting.missing import reasons_of
from robustcls.results.records import Explanations, MethodMeasures, Spread

MEASURES = {
    "spearman": "Spearman",
    "top_k": "Top-k overlap",
    "ssim": "SSIM",
    "cosine": "Cosine",
    "top_k_tolerant": "Top-k overlap, tolerance of one pixel",
}
GROUPS = {  # (against, label): (name, marker, colour, whether the marker is filled)
    ("adversarial", "kept"): ("attack, prediction unchanged", "o", SERIES[0], True),
    ("adversarial", "flipped"): ("attack, prediction changed", "D", SERIES[1], True),
    ("benign_noise", ""): ("benign noise, same norm", "s", SERIES[2], False),
    ("random_map", ""): ("random map", "^", SERIES[3], False),
}


def stability(context: Context) -> Markup:
    """The similarity of the clean image's map to the map of the attacked image, to the map under noise, and to a random map."""
    parts = [_part(model) for model in context.models]
    absent, narrow = reasons_of(context, "stability"), _narrow
    return fill_file(
        "explanations/section_stability.html",
        context,
        parts=parts,
        absent=absent,
        few=FEW,
        measures=MEASURES,
        narrow=narrow,
    )


def _part(model: Model) -> dict[str, object] | None:
    found = model.evaluation.explanations
    if found is None or not found.methods:
        return None
    sizes = [one.n for method in found.methods for one in method.likeness]
    return {
        "found": found,
        "rule": sentence(found.rule),
        "compared": {one.against for method in found.methods for one in method.likeness if one.n},
        "small": any(0 < size < FEW for size in sizes),
        "empty": 0 in sizes,
        "drawn": _draw(model, found),
        "methods": [(method, [(*one, _name(one[0])) for one in _groups(method)]) for method in found.methods],
    }


def _groups(method: MethodMeasures) -> list[tuple[tuple[str, str], int | None]]:
    """Each group with its index in the record, or None for a known group that the record lacks; unknown groups come last."""
    places = {(one.against, one.label): i for i, one in enumerate(method.likeness)}
    return [(key, places.get(key)) for key in GROUPS] + [(key, i) for key, i in places.items() if key not in GROUPS]


def _name(key: tuple[str, str]) -> str:
    return GROUPS[key][0] if key in GROUPS else ", ".join(filter(None, key))


def _narrow(name: str) -> Markup:
    """The name on two lines if it can be divided, so that a wide table fits a screen; the numbers take two lines anyway."""
    return lines(re.split(r"(?=\()|(?<=,) ", name, maxsplit=1))


def _draw(model: Model, found: Explanations) -> Markup | None:
    drawn = [(i, method.method, known) for i, method in enumerate(found.methods) if (known := list(_known(method)))]
    if not drawn:
        return None
    rows = []
    for i, method, known in drawn:
        for key, place, _ in known:
            at = f"explanations.methods.{i}.likeness.{place}.measures.spearman"
            n, quartiles = (
                model.n(f"{at}.n", ",d"),
                {"Median": "median", "Lower quartile": "q1", "Upper quartile": "q3"},
            )
            values = model.cells(at, "z.3f", quartiles)
            rows.append({"Method": method, "Clean map compared with": _name(key), "n": n, **values})
    title = f"Rank correlation (Spearman) of the maps of {model.name}"
    faint = any(spread.n < FEW for _, _, known in drawn for _, _, spread in known)
    caption = f"{title}: median and middle half of the samples" + (f"; faint: fewer than {FEW}" if faint else "")
    labelled = [(method, {key: spread for key, _, spread in known}) for _, method, known in drawn]
    paint, size = partial(_paint, labelled), (7.4, 1.2 + 0.8 * len(drawn))
    return plot(f"stability-{model.place}", title, paint, rows, caption=caption, size=size)


def _known(method: MethodMeasures) -> Iterator[tuple[tuple[str, str], int, Spread]]:
    """The known groups that have a rank correlation: (key, index in the record, spread)."""
    for key, place in _groups(method):
        if key in GROUPS and place is not None:
            spread = method.likeness[place].measures.get("spearman")
            if spread is not None and None not in (spread.median, spread.q1, spread.q3):
                yield key, place, spread


def _paint(rows: list[tuple[str, dict[tuple[str, str], Spread]]], axes: Axes) -> None:
    lows = [spread.q1 or 0.0 for _, groups in rows for spread in groups.values()]  # `_known` leaves no None
    for label, marker, colour, filled in GROUPS.values():
        face = colour if filled else "none"
        axes.plot([], [], f"-{marker}", color=colour, markerfacecolor=face, markersize=6, label=label)
    for place, (_, groups) in enumerate(reversed(rows)):
        for turn, (key, (_, marker, colour, filled)) in enumerate(GROUPS.items()):
            if spread := groups.get(key):
                y, faint = place + 0.3 - 0.2 * turn, 0.6 if spread.n < FEW else 1.0
                low, median, high = (value or 0.0 for value in (spread.q1, spread.median, spread.q3))
                face = colour if filled else "none"
                axes.plot([low, high], [y, y], color=colour, linewidth=2.2, alpha=0.7 * faint)
                axes.plot([median], [y], marker, color=colour, markerfacecolor=face, markersize=6.5, alpha=faint)
    axes.axvline(1, color=INK, linewidth=1, linestyle=DOTTED)
    axes.set_yticks(range(len(rows)), [shorten(name, 30) for name, _ in reversed(rows)])
    axes.set_ylim(-0.55, len(rows) - 0.45)
    axes.set_xlim(min(-0.1, *lows) - 0.05, 1.05)
    axes.set_xlabel("rank correlation with the clean map; 1: the same map")
    axes.grid(axis="x")
    legend_above(axes)
