"""The section Security curves: robust accuracy against the radius, one panel per norm."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import Context, Model
from robustcls.reporting.figures import (
    DOTTED,
    INK,
    MARKERS,
    SERIES,
    STYLES,
    above,
    beside,
    legend_above,
    plot,
    shares_upwards,
    shorten,
)
from robustcls.reporting.html import fill_file, piece
from robustcls.reporting.missing import missing_of
from robustcls.results.records import CurvePoint

ORDER, TITLE = 40, "Security curves"

NEAR_ZERO = 0.01  # a curve is complete once robust accuracy is at most this


@dataclass(frozen=True)
class Line:
    """The curve of one model in one norm."""

    model: Model
    path: str  # of the points in the evaluation
    points: list[CurvePoint]
    attacks: str  # names, in order
    rule: str  # which samples were attacked

    @property
    def end(self) -> int:
        """The index of the first point near zero, or else of the last point."""
        return next((i for i, one in enumerate(self.points) if one.robust.accuracy <= NEAR_ZERO), len(self.points) - 1)

    @property
    def falls(self) -> bool:
        return self.points[self.end].robust.accuracy <= NEAR_ZERO


def curves(context: Context) -> Markup:
    """Robust accuracy against eps with intervals, in the norm of the threat model and in the other norms attacked."""
    found: dict[str, list[Line]] = {}
    for norm, line in _lines(context):
        found.setdefault(norm, []).append(line)
    panels = [(norm, some, _draw(context, f"curves-{i}", norm, some)) for i, (norm, some) in enumerate(found.items())]
    parts = (("In the norm of the threat model", "curves"), ("In other norms", "other_curves"))
    missing = [(title, lack) for title, part in parts if (lack := missing_of(context, part))]
    short = any(line.points[-1].robust.accuracy > NEAR_ZERO for some in found.values() for line in some)
    return fill_file("curves.html", context, panels=panels, missing=missing, short=short, limit=NEAR_ZERO)


def units(norm: str, eps_texts: Iterable[str]) -> tuple[float, str]:
    """(factor, name) of the unit of an axis of radii: 1/255 if a radius is written so, else the pixel range; in l0, values."""
    if norm == "l0":
        return 1.0, "changed values"
    grey_levels = any(text.endswith("/255") for text in eps_texts)
    return (255.0, "units of 1/255") if grey_levels else (1.0, "pixel range [0, 1]")


def mark_eps(models: Iterable[Model], norm: str, factor: float, axes: Axes) -> None:
    """Draw a labelled line at the eps of each threat model in this norm; models with the same eps share a line."""
    threats = [model.evaluation.threat for model in models]
    radii = {threat.eps: threat.eps_text for threat in threats if threat.norm == norm}
    for place, (eps, text) in enumerate(sorted(radii.items())):
        axes.axvline(factor * eps, color=INK, linewidth=1, linestyle=DOTTED)
        above(axes, f"eps = {text}", factor * eps, (0, 3 + 11 * place), ha="center", va="bottom")


def _lines(context: Context) -> Iterator[tuple[str, Line]]:
    """Each curve with its norm: first those in the norms of the threat models."""
    for model in context.models:
        if points := model.evaluation.curve:
            attacks = ", ".join(attack.name for attack in model.evaluation.attacks) or "none"
            yield model.evaluation.threat.norm, Line(model, "curve", points, attacks, "all samples of this evaluation")
    for model in context.models:
        for i, other in enumerate(model.evaluation.other_curves or []):
            if other.points:
                path = f"other_curves.{i}.points"
                yield other.norm, Line(model, path, other.points, ", ".join(other.attacks), other.rule)


def _draw(context: Context, name: str, norm: str, some: list[Line]) -> Markup:
    rows = [
        {
            "Model": line.model.tag,
            "eps": point.eps_text,
            "eps in [0, 1]": line.model.n(f"{line.path}.{i}.eps", ".5f"),
            **line.model.shares(f"{line.path}.{i}.robust"),
            "Error": piece("error", point.error) if point.error else "none",
        }
        for line in some
        for i, point in enumerate(line.points)
    ]
    title = f"Robust accuracy against eps, {norm}"
    failed = any(point.error for line in some for point in line.points)
    caption = f"{title}: an upper bound with its 95% band" + ("; crosses: an attack failed there" if failed else "")

    def paint(axes: Axes) -> None:
        factor, unit = units(norm, (point.eps_text for line in some for point in line.points))
        for line in some:
            i = line.model.series
            x = [factor * point.eps for point in line.points]
            y = [100 * point.robust.accuracy for point in line.points]
            low, high = ([100 * point.robust.ci95[end] for point in line.points] for end in (0, 1))
            axes.fill_between(x, low, high, color=SERIES[i], alpha=0.2, linewidth=0)
            style: Any = {"marker": MARKERS[i], "markersize": 4.5, "color": SERIES[i]}
            axes.plot(x, y, STYLES[i], label=shorten(line.model.name, 30), **style)
            crosses = [one for *one, point in zip(x, y, line.points, strict=True) if point.error]
            if crosses:
                axes.plot(*zip(*crosses, strict=True), "x", color=INK, markersize=9, linestyle="none")
        for count in sorted({len(line.model.evaluation.model.classes) for line in some} - {0}):
            axes.axhline(100 / count, color=INK, linewidth=1, linestyle=(0, (5, 3)), alpha=0.7)
            beside(axes, f"chance:\n1 of {count:,}", 100 / count)
        mark_eps([line.model for line in some], norm, factor, axes)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"eps, {norm} norm, {unit}")
        shares_upwards(axes)
        if context.several:
            legend_above(axes, 1.07)

    return plot(name, title, paint, rows, caption=caption, size=(7.4, 3.4))
