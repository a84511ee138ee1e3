"""Robust accuracy against the radius, one panel per norm."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import Context
from robustcls.reporting.figures import INK, SERIES, draw, shorten
from robustcls.reporting.html import derived, figure, fill_file, model_tag, number, table
from robustcls.reporting.missing import missing_of
from robustcls.results.records import CurvePoint

ORDER, TITLE = 40, "Security curves"

NEAR_ZERO = 0.01  # accuracy at which a curve counts as drawn to its end
STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Line:
    """The curve of one model in one norm."""

    model: int
    path: str  # of the points, in the evaluation
    points: list[CurvePoint]
    attacks: str
    rule: str


def curves(context: Context) -> Markup:
    """Accuracy against eps with intervals, for the norm of the threat model and for the others that were tried."""
    found: dict[str, list[Line]] = {}
    for norm, line in _lines(context):
        found.setdefault(norm, []).append(line)
    panels = [
        {
            "norm": norm,
            "drawn": _draw(context, i, norm, some),
            "made": _made(context, norm, some),
            "rules": list(dict.fromkeys(line.rule for line in some)),
        }
        for i, (norm, some) in enumerate(found.items())
    ]
    missing = [
        (title, lack)
        for title, part in (("In the norm of the threat model", "curves"), ("In other norms", "other_curves"))
        if (lack := missing_of(context, part))
    ]
    short = any(line.points[-1].robust.accuracy > NEAR_ZERO for some in found.values() for line in some)
    return fill_file("curves.html", context, panels=panels, missing=missing, short=short)


def units(eps_texts: Iterable[str]) -> tuple[float, str]:
    """(factor, name) of an axis of radii: grey levels where people write the radii so, else the pixel range."""
    grey_levels = any(text.endswith("/255") for text in eps_texts)
    return (255.0, "units of 1/255") if grey_levels else (1.0, "pixel range [0, 1]")


def mark_eps(context: Context, models: Iterable[int], norm: str, factor: float, axes: Axes) -> None:
    """A labelled line at the radius of each threat model in this norm; models that share one share the line."""
    radii = {}
    for model in models:
        threat = context.evaluations[model].threat
        if threat.norm == norm:
            radii[threat.eps] = threat.eps_text
    for place, (eps, text) in enumerate(sorted(radii.items())):
        axes.axvline(factor * eps, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.annotate(
            f"eps = {text}", (factor * eps, 1), (0, 3 + 11 * place), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="center", va="bottom", fontsize=9,
        )  # fmt: skip


def _lines(context: Context) -> Iterator[tuple[str, Line]]:
    """Each curve with its norm: those of the threat models first."""
    for model, evaluation in enumerate(context.evaluations):
        if evaluation.curve:
            attacks = ", ".join(attack.name for attack in evaluation.attacks) or "none"
            yield evaluation.threat.norm, Line(model, "curve", evaluation.curve, attacks, "all of this evaluation")
    for model, evaluation in enumerate(context.evaluations):
        for i, other in enumerate(evaluation.other_curves or []):
            if other.points:
                path = f"other_curves.{i}.points"
                yield other.norm, Line(model, path, other.points, ", ".join(other.attacks), other.rule)


def _made(context: Context, norm: str, some: list[Line]) -> Markup:
    rows: list[list[Markup | str]] = [
        [
            model_tag(context, line.model),
            number(context, line.model, f"{line.path}.0.robust.total", ",d"),
            _end(context, line),
            line.attacks,
        ]
        for line in some
    ]
    heads = ["Model", "n", "Where the curve ends", "Attacks, in order"]
    return table(f"How the curves in {norm} were measured", heads, rows)


def _end(context: Context, line: Line) -> Markup:
    for i, point in enumerate(line.points):
        if point.robust.accuracy <= NEAR_ZERO:
            share = number(context, line.model, f"{line.path}.{i}.robust.accuracy", ".1%")
            return Markup("near 0%: {} at eps = {}").format(share, point.eps_text)
    last = len(line.points) - 1
    share = number(context, line.model, f"{line.path}.{last}.robust.accuracy", ".1%")
    limit = derived("near zero", NEAR_ZERO, ".0%")
    words = Markup("<strong>does not fall to {}</strong>: still {} at eps = {}")
    return words.format(limit, share, line.points[-1].eps_text)


def _draw(context: Context, place: int, norm: str, some: list[Line]) -> Markup:
    rows = [
        [
            model_tag(context, line.model),
            point.eps_text,
            number(context, line.model, f"{line.path}.{i}.eps", ".5f"),
            *(
                number(context, line.model, f"{line.path}.{i}.robust.{name}", ".1%")
                for name in ("accuracy", "ci95.0", "ci95.1")
            ),
            number(context, line.model, f"{line.path}.{i}.robust.correct", ",d"),
            number(context, line.model, f"{line.path}.{i}.robust.total", ",d"),
            Markup('<span class="error">{}</span>').format(point.error) if point.error else "none",
        ]
        for line in some
        for i, point in enumerate(line.points)
    ]
    heads = ["Model", "eps", "of [0, 1]", "Accuracy", "95% low", "95% high", "Correct", "Samples", "Error"]
    title = f"Robust accuracy against eps, {norm}"
    described = "; ".join(
        f"{context.names[line.model]}: "
        + ", ".join(f"{point.robust.accuracy:.1%} at {point.eps_text}" for point in line.points)
        for line in some
    )
    svg = draw(f"curves-{place}", title, described, partial(_paint, context, norm, some), (7.4, 3.4))
    broken = any(point.error for line in some for point in line.points)
    caption = title + ": an upper bound with its 95% band" + ("; crosses: an attack broke off there" if broken else "")
    return figure(f"curves-{place}", svg, caption, table(f"Data: accuracy against eps, {norm}", heads, rows))


def _paint(context: Context, norm: str, some: list[Line], axes: Axes) -> None:
    factor, unit = units(point.eps_text for line in some for point in line.points)
    for line in some:
        colour = SERIES[line.model % 4]
        x = [factor * point.eps for point in line.points]
        share = [100 * point.robust.accuracy for point in line.points]
        low, high = ([100 * point.robust.ci95[end] for point in line.points] for end in (0, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(
            x, share, STYLES[line.model % 4], marker="os^v"[line.model % 4], markersize=4.5, color=colour,
            label=shorten(context.names[line.model], 30),
        )  # fmt: skip
        failed = [(at, y) for at, y, point in zip(x, share, line.points, strict=True) if point.error]
        if failed:
            axes.plot(*zip(*failed, strict=True), "x", color=INK, markersize=9, linestyle="none")
    for count in sorted({len(context.evaluations[line.model].model.classes) for line in some} - {0}):
        axes.axhline(100 / count, color=INK, linewidth=1, linestyle=(0, (5, 3)), alpha=0.7)
        axes.annotate(
            f"chance:\n1 of {count:,}", (1, 100 / count), (4, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="left", va="center", fontsize=9,
        )  # fmt: skip
    mark_eps(context, [line.model for line in some], norm, factor, axes)
    axes.set_ylim(-3, 103)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"eps, {norm} norm, {unit}")
    axes.set_ylabel("accuracy in %")
    axes.grid(axis="y")
    if context.several:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.07), ncols=2)
