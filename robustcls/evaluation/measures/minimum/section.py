"""The section Minimum perturbation: distances of the nearest adversarial examples found, one panel per norm."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.core.threat import BALL
from robustcls.evaluation.measures.minimum.record import MinimumNorm
from robustcls.reporting.context import BEYOND, UNLIKE, Context, Model, unmeasured
from robustcls.reporting.figures import SERIES, STYLES, beside, legend_above, plot, shares_upwards, shorten
from robustcls.reporting.html import Row, derived, fill_file, lacking, lines, piece
from robustcls.reporting.missing import missing_of
from robustcls.reporting.sections.curves import mark_eps, units

STEPS = 20  # rows in the table of data behind a figure


@dataclass(frozen=True)
class Line:
    """The distances that one attack found for one model."""

    model: Model
    path: str
    found: MinimumNorm

    @property
    def known(self) -> list[tuple[float, int]]:
        """(distance, index in the record) of the samples that are not censored, nearest first."""
        return sorted((distance, i) for i, distance in enumerate(self.found.distance) if distance is not None)

    @property
    def inside(self) -> float:
        """The share of the samples that have an example within eps."""
        return self.within(self.model.evaluation.threat.eps + BALL) / self.found.n

    def within(self, eps: float) -> int:
        """The number of samples with an example within this distance."""
        return sum(distance <= eps for distance, _ in self.known)


def minimum(context: Context) -> Markup:
    """The share of samples with an adversarial example within each distance, and the quartiles of the distance."""
    every = _lines(context)
    every.sort(
        key=lambda line: line.found.norm != line.model.evaluation.threat.norm
    )  # norms of the threat models first
    norms: dict[str, list[Line]] = {}
    for line in every:
        norms.setdefault(line.found.norm, []).append(line)
    return fill_file(
        "minimum/section.html",
        context,
        panels=[(norm, some, _draw(f"minimum-{i}", norm, some)) for i, (norm, some) in enumerate(norms.items())],
        rules=list(dict.fromkeys(line.found.rule for line in every if line.found.rule)),
        missing=missing_of(context, "minimum"),
        quartile=Model.quartile,
        not_measured=unmeasured,
    )


def compared(context: Context) -> list[tuple[Markup, list[Markup]]]:
    """Rows of the median distance under each attack, for models measured on the same samples."""
    by_attack: dict[tuple[str, str], dict[int, Line]] = {}
    for line in _lines(context):
        by_attack.setdefault((line.found.norm, line.found.attack), {}).setdefault(line.model.place, line)
    rows = []
    for (norm, attack), some in by_attack.items():
        alike = len({tuple(line.found.index) for line in some.values() if line.found.distance}) <= 1
        cells = [lacking() for _ in context.models]
        for place, line in some.items():
            unlike = line.found.distance and not alike
            cells[place] = lacking(UNLIKE) if unlike else line.model.quartile(line.path, "median")
        n = derived("samples", next(iter(some.values())).found.n, ",d")
        title = piece("of_n", f"Median smallest distance, {norm}", n)
        rows.append((lines([title, attack, "0 for samples that are misclassified without any change"]), cells))
    return rows


def _lines(context: Context) -> list[Line]:
    return [
        Line(model, f"minimum.{i}", found)
        for model in context.models
        for i, found in enumerate(model.evaluation.minimum or [])
    ]


def _draw(name: str, norm: str, every: list[Line]) -> Markup | None:
    some = [line for line in every if line.found.distance]
    if not some:
        return None
    title = f"Share of samples with an adversarial example within a distance, {norm}"
    rows = [row for line in some for row in _steps(line)]
    return plot(name, title, partial(_paint, norm, some), rows, size=(7.4, 3.4))


def _steps(line: Line) -> Iterator[Row]:
    known = line.known
    for step in range(1, STEPS + 1):
        rank = math.ceil(step * line.found.n / STEPS)
        there = rank <= len(known)
        yield {
            "Model": line.model.tag,
            "Attack": line.found.attack,
            "Share of the samples": derived("share of the samples", step / STEPS, ".0%"),
            "Distance at most": line.model.n(f"{line.path}.distance.{known[rank - 1][1]}", ".4f")
            if there
            else lacking(BEYOND),
        }


def _paint(norm: str, some: list[Line], axes: Axes) -> None:
    own = [threat for line in some if (threat := line.model.evaluation.threat).norm == norm]
    factor, unit = units(norm, (threat.eps_text for threat in own))
    ends = [line.known[-1][0] for line in some if line.known] + [1.2 * threat.eps for threat in own]
    right = 1.04 * factor * max(ends, default=0.0) or 1.0
    seen: dict[int, int] = {}
    attacks = len({line.found.attack for line in some}) > 1
    for line in some:
        model = line.model
        turn = seen[model.place] = seen.get(model.place, -1) + 1
        x = [0.0, *(factor * distance for distance, _ in line.known), right]
        y = [100 * i / line.found.n for i in range(len(line.known) + 1)]
        y.append(y[-1])
        label = shorten(model.name, 30) + (f", {shorten(line.found.attack)}" if attacks else "")
        style = STYLES[(model.place + turn) % 4]
        axes.step(x, y, where="post", color=SERIES[model.series], linestyle=style, label=label)
    room = 103.0
    for line in sorted(some, key=lambda line: -len(line.known) / line.found.n):
        if line.found.censored:  # write the number of missing samples beside the end of the curve
            room = min(100 * len(line.known) / line.found.n, room - 14)
            text = f"none found:\n{line.found.censored:,} of {line.found.n:,}"
            beside(axes, text, room, color=SERIES[line.model.series])
    mark_eps([line.model for line in some], norm, factor, axes)
    axes.set_xlim(0, right)
    axes.set_xlabel(f"distance, {norm} norm, {unit}")
    shares_upwards(axes, "samples in %", "both")
    if len(some) > 1:
        legend_above(axes, 1.07)
