"""The section Certified accuracy: the certified lower bound and the attacked upper bound of robust accuracy."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import FEW, Context, Model
from robustcls.reporting.figures import DOTTED, INK, SERIES, above, beside, plot, shares_upwards
from robustcls.reporting.html import Row, derived, estimate, fill_file, lacking, piece, points
from robustcls.reporting.sections.curves import mark_eps, units
from robustcls.results.bracket import (
    Attacked,
    attacked_of,
    bracket,
    covers,
    largest_radius,
    stated_radius,
    upper_at,
    why_apart,
)
from robustcls.results.certified import HOLDS, Certified, radius_text
from robustcls.results.contradictions import contradicted
from robustcls.results.records import Accuracy

ORDER, TITLE = 45, "Certified accuracy"

DRAWN = 300  # largest number of steps drawn of the certified curve
APART = 13.0  # smallest distance of two labels beside the figure, in points of accuracy
# A text is written into the gap if it is at least WIDE points high and farther from each line than NEAR of the x axis.
WIDE, NEAR = 12.0, 0.07


@dataclass(frozen=True)
class Sides:
    """The certified and the attacked accuracies of one model."""

    model: Model
    found: Certified
    apart: str  # why certificates and attacks make no bracket; "" if they do
    attacked: list[Attacked]  # empty if they make no bracket

    @classmethod
    def of(cls, model: Model) -> "Sides":
        found = model.evaluation.certified
        assert found is not None
        apart = why_apart(model.evaluation)
        return cls(model, found, apart, [] if apart else attacked_of(model.evaluation))

    @property
    def unit(self) -> tuple[float, str]:
        """The unit of the radii on an axis: its factor and name."""
        texts = [self.model.evaluation.threat.eps_text, *(self.found.text(point.radius) for point in self.found.curve)]
        return units(self.found.norm, texts)

    @property
    def factor(self) -> float:
        return self.unit[0]

    @property
    def radii(self) -> list[float]:
        """The radii of the table: those of both curves, without duplicates."""
        every = sorted({point.radius for point in self.found.curve} | {point.eps for point in self.attacked})
        return [one for i, one in enumerate(every) if i == 0 or not math.isclose(one, every[i - 1], rel_tol=HOLDS)]

    def text(self, radius: float) -> str:
        """The radius as text, such as 2/255."""
        return radius_text(radius, self.factor != 1)


def certified(context: Context) -> Markup | None:
    """Certified and attacked accuracy of the same classifier on the same samples, by radius and by class."""
    some = [Sides.of(model) for model in context.models if model.evaluation.certified]
    if not some:
        return None
    return fill_file(
        "certified.html",
        context,
        parts=[_part(context, sides) for sides in some],
        without=[model.tag for model in context.models if not model.evaluation.certified],
        few=FEW,
    )


def certified_at(model: Model) -> Markup:
    """Certified accuracy at the threat model's eps with its interval, for a table of models."""
    found, threat = model.evaluation.certified, model.evaluation.threat
    if found is None or not covers(found, threat.eps):
        return lacking()
    if model.evaluation.attacks and why_apart(model.evaluation):
        return lacking("not for the attacked model")
    return estimate("certified accuracy", found.at(threat.eps))


def _part(context: Context, sides: Sides) -> dict[str, Any]:
    found, evaluation = sides.found, sides.model.evaluation
    at = stated_radius(evaluation)
    rows, classes = _rows(sides), _by_class(sides, at)
    above_it = [sides.text(one) for one in sides.radii if (both := bracket(evaluation, one)) and both.gap < 0]
    return {
        "model": sides.model,
        "found": found,
        "apart": sides.apart,
        "drawn": _draw(context, sides, rows),
        "rows": rows,
        "classes": [row for _, row in classes],
        "grey": [i for i, (n, _) in enumerate(classes) if n < FEW],
        "at": sides.text(at),
        "same": math.isclose(at, evaluation.threat.eps),
        "bracket": bracket(evaluation),
        "above": ", ".join(above_it),
        "largest": largest_radius(found),
        "false": found.alpha * len(found.samples) if found.alpha is not None else None,
    }


def _rows(sides: Sides) -> list[Row]:
    evaluation, found = sides.model.evaluation, sides.found
    places = {point.radius: f"certified.curve.{place}" for place, point in enumerate(found.curve)}
    rows: list[Row] = []
    for radius in sides.radii:
        if radius in places:
            lower = sides.model.interval(places[radius])
        else:
            proven = found.at(radius) if covers(found, radius) else None
            lower = (
                lacking("not certified at this radius") if proven is None else estimate("certified accuracy", proven)
            )
        row: dict[str, Any] = {"Radius": sides.text(radius), "Certified [95% interval]": lower}
        if sides.attacked:
            upper = upper_at(sides.attacked, radius)
            both = bracket(evaluation, radius)
            row |= {
                "Attacked [95% interval]": sides.model.interval(upper.path),
                "Attacked at": "clean images" if upper.eps == 0 else upper.eps_text,
                "Gap, points": _gap(sides, both.gap) if both else lacking("not known"),
            }
        if found.method == "smoothing":
            row["Abstained"] = sides.model.n("certified.abstained", ",d")
        rows.append(row)
    return rows


def _gap(sides: Sides, gap: float) -> Markup:
    """The gap in points. A negative gap is marked as a contradiction, or, with smoothing, as "few draws" if more draws can
    resolve it: an attack on a vote over few draws may succeed by chance."""
    chance = sides.found.method == "smoothing" and not contradicted(sides.model.evaluation)
    word = "few draws" if chance else "contradiction"
    return piece("marked", points("gap", gap), word) if gap < 0 else points("gap", gap)


def _by_class(sides: Sides, radius: float) -> list[tuple[int, Row]]:
    """The rows of the table by class, each with its number of samples: certified at `radius`, attacked at the threat's eps."""
    threat = sides.model.evaluation.threat
    proven: dict[int, list[bool]] = {}
    for one in sides.found.samples:
        proven.setdefault(one.label, []).append(one.holds(radius))
    held: dict[int, list[bool]] = {}
    for sample in sides.model.evaluation.samples if sides.attacked else ():
        held.setdefault(sample.label, []).append(sample.label == sample.clean == sample.adversarial)
    rows: list[tuple[int, Row]] = []
    for label, some in sorted(proven.items()):
        row: dict[str, Any] = {
            "Class": sides.model.class_name(label),
            "n": derived("class n", len(some), ",d"),
            f"Certified at {sides.text(radius)} [95% interval]": estimate(
                "class certified", Accuracy.of(sum(some), len(some))
            ),
        }
        if sides.attacked:
            kept = held[label]
            upper = estimate("class robust", Accuracy.of(sum(kept), len(kept)))
            row[f"Attacked at {threat.eps_text} [95% interval]"] = upper
            if math.isclose(radius, threat.eps):
                row["Gap, points"] = _gap(sides, (sum(kept) - sum(some)) / len(some))
        rows.append((len(some), row))
    return rows


def _steps(found: Certified, end: float) -> tuple[list[float], list[float]]:
    """The steps of the certified curve: radii, and the certified accuracy in percent between the previous radius and each.

    Where steps are left out, the curve stays a lower bound.
    """
    total, right = len(found.samples), sorted(one.radius for one in found.samples if one.holds(0))
    radii = sorted({radius for radius in right if 0 < radius < end})
    radii = [0.0, *radii[:: max(1, -(-len(radii) // DRAWN))], end]
    return radii, [100 * (len(right) - bisect_left(right, radius * (1 - HOLDS))) / total for radius in radii]


def _draw(context: Context, sides: Sides, rows: Sequence[Row]) -> Markup:
    model, found, factor = sides.model, sides.found, sides.factor
    title = context.of(model, f"Certified accuracy against the radius, {found.norm}")
    if sides.attacked:
        title = context.of(model, f"Certified and attacked accuracy against the radius, {found.norm}")
    marks = "▲: certified" + (", ▼: attacked" if sides.attacked else "")
    caption = f"{title}; {marks}, each with its 95% interval" + (
        "; shaded between them: samples that are neither certified nor broken" if sides.attacked else ""
    )

    def paint(axes: Axes) -> None:
        colour, end = SERIES[model.series], max(sides.radii[-1], sides.model.evaluation.threat.eps) or 1.0
        x, low = _steps(found, end if covers(found, end) else largest_radius(found))  # nothing is known beyond it
        axes.plot([factor * r for r in x], low, "-", drawstyle="steps-pre", color=colour)
        asked = [point for point in found.curve if point.radius <= end]
        _mark(axes, factor, [(point.radius, point) for point in asked], "^", colour)
        ends = [(low[-1], "certified:\nlower bound")] if x[-1] == end else []
        if not ends:
            _label_inside(axes, factor * x[-1], low[-1], "certified:\nlower bound")
        if sides.attacked:
            shares = [100 * point.robust.accuracy for point in sides.attacked]
            across = [factor * point.eps for point in sides.attacked] + [factor * end]
            axes.plot(across, [*shares, shares[-1]], "--", drawstyle="steps-post", color=colour)
            _mark(axes, factor, [(point.eps, point.robust) for point in sides.attacked], "v", colour)
            ends.append((shares[-1], "attacked:\nupper bound"))
            _shade(axes, sides, x, low, colour)
        _label(axes, ends)
        mark_eps([model] if model.evaluation.threat.eps > 0 else [], found.norm, factor, axes)
        largest = largest_radius(found)
        if found.method == "smoothing" and 0 < largest <= end:
            axes.axvline(factor * largest, color=INK, linewidth=1, linestyle=DOTTED, alpha=0.6)
            above(axes, f"limit of {found.n:,} draws", factor * largest, (0, 14), ha="center", va="bottom")
        axes.set_xlim(-0.015 * factor * end, 1.02 * factor * end)
        axes.set_xlabel(f"radius, {found.norm} norm, {sides.unit[1]}")
        shares_upwards(axes)

    data = [{key: cell for key, cell in row.items() if key != "Abstained"} for row in rows]
    return plot(f"certified-{model.place}", title, paint, data, caption=caption, size=(7.4, 3.6))


def _mark(axes: Axes, factor: float, found: Sequence[tuple[float, Any]], marker: str, colour: str) -> None:
    """Draw points with their intervals."""
    for radius, one in found:
        low, share, high = (100 * value for value in (one.ci95[0], one.accuracy, one.ci95[1]))
        bars: Any = {"yerr": [[max(0, share - low)], [max(0, high - share)]], "capsize": 2.5, "elinewidth": 1}
        axes.errorbar([factor * radius], [share], fmt=marker, color=colour, markersize=5.5, **bars)


def _shade(axes: Axes, sides: Sides, x: Sequence[float], low: Sequence[float], colour: str) -> None:
    """Shade the gap between the two curves where both are known, and label it in its widest part."""
    edges = sorted({*x, *(point.eps for point in sides.attacked if point.eps <= x[-1])})
    lows = [low[bisect_left(x, right)] for _, right in pairwise(edges)]
    highs = [100 * upper_at(sides.attacked, left).robust.accuracy for left, _ in pairwise(edges)]
    if not lows:
        return
    across = [sides.factor * edge for edge in edges]
    axes.fill_between(
        across, [*lows, lows[-1]], [*highs, highs[-1]], step="post", color=colour, alpha=0.16, linewidth=0
    )
    middles = [(left + right) / 2 for left, right in pairwise(edges)]
    lines = (*sides.radii, sides.model.evaluation.threat.eps, largest_radius(sides.found), x[-1])
    inside = [i for i, at in enumerate(middles) if min(abs(at - line) for line in lines) > NEAR * x[-1]]
    widest = max(inside, key=lambda i: highs[i] - lows[i], default=None)
    if widest is not None and highs[widest] - lows[widest] >= WIDE:
        y = (highs[widest] + lows[widest]) / 2
        axes.text(sides.factor * middles[widest], y, "not known", color=INK, fontsize=9, ha="center", va="center")


def _label_inside(axes: Axes, x: float, y: float, text: str) -> None:
    """Write the name of a curve that ends inside the axes to the right of its end, below the curve if there is room."""
    below = y > APART
    shift, va = ((9, -3), "top") if below else ((9, 3), "bottom")
    axes.annotate(text, (x, y), shift, textcoords="offset points", color=INK, fontsize=9, ha="left", va=va)


def _label(axes: Axes, ends: Sequence[tuple[float, str]]) -> None:
    """Write the names of the curves beside their ends, moved apart if they would overlap. ends: the lower curve first."""
    if len(ends) > 1 and ends[1][0] - ends[0][0] < APART:
        middle = min(max((ends[0][0] + ends[1][0]) / 2, APART / 2), 100 - APART / 2)
        ends = [(middle - APART / 2, ends[0][1]), (middle + APART / 2, ends[1][1])]
    for y, text in ends:
        beside(axes, text, y)
