"""How far the nearest adversarial example is that was found, one panel per norm."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.core.threat import BALL
from robustcls.evaluation.measures.minimum.record import MinimumNorm
from robustcls.reporting.context import Context
from robustcls.reporting.figures import SERIES, draw, shorten
from robustcls.reporting.html import derived, figure, fill_file, model_tag, number, table
from robustcls.reporting.missing import missing_of
from robustcls.reporting.sections.curves import STYLES, mark_eps, units

ORDER, TITLE = 70, "Minimum perturbation"

BEYOND = Markup('<span class="none">beyond what was found</span>')
STEPS = 20  # of the table behind a figure


@dataclass(frozen=True)
class Line:
    """What one attack found of one model."""

    model: int
    path: str
    found: MinimumNorm

    @property
    def known(self) -> list[tuple[float, int]]:
        """(distance, place in the record), nearest first; censored samples are not among them."""
        return sorted((distance, i) for i, distance in enumerate(self.found.distance) if distance is not None)

    def within(self, eps: float) -> int:
        """How many samples have an example at most so far."""
        return sum(distance <= eps for distance, _ in self.known)


def not_measured(found: MinimumNorm) -> Markup:
    """Of an attack that broke off before it gave any distance, which says nothing about the model."""
    return Markup('<span class="none">{}</span>').format(
        f"not measured: {found.error}" if found.error else "not measured"
    )


def minimum(context: Context) -> Markup:
    """The share of samples with an adversarial example within each distance, and the quartiles of the distance."""
    norms: dict[str, list[Line]] = {}
    for line in _lines(context):
        norms.setdefault(line.found.norm, []).append(line)
    panels = [
        {"norm": norm, "drawn": _draw(context, i, norm, some), "quartiles": _quartiles(context, norm, some)}
        for i, (norm, some) in enumerate(norms.items())
    ]
    every = [line for some in norms.values() for line in some]
    return fill_file(
        "minimum.html",
        context,
        panels=panels,
        censored=any(line.found.censored for line in every),
        rules=list(dict.fromkeys(line.found.rule for line in every if line.found.rule)),
        missing=missing_of(context, "minimum"),
    )


def _lines(context: Context) -> Iterator[Line]:
    """Those in a threat model's own norm first."""
    every = [
        Line(model, f"minimum.{i}", found)
        for model, evaluation in enumerate(context.evaluations)
        for i, found in enumerate(evaluation.minimum or [])
    ]
    yield from (line for line in every if line.found.norm == context.evaluations[line.model].threat.norm)
    yield from (line for line in every if line.found.norm != context.evaluations[line.model].threat.norm)


def _quartiles(context: Context, norm: str, some: list[Line]) -> Markup:
    rows: list[list[Markup | str]] = []
    failed = any(line.found.error for line in some)
    own = any(context.evaluations[line.model].threat.norm == norm for line in some)
    for line in some:
        found, threat = line.found, context.evaluations[line.model].threat
        none = not_measured(found)
        inside: list[Markup] = []
        if threat.norm == norm:
            share = line.within(threat.eps + BALL) / found.n if found.distance else None
            inside = [none if share is None else derived("share within eps", share, ".1%")]
        elif own:
            inside = [Markup('<span class="none">eps is in another norm</span>')]
        rows.append(
            [
                model_tag(context, line.model),
                found.attack,
                number(context, line.model, f"{line.path}.n", ",d"),
                *(
                    none
                    if not found.distance
                    else BEYOND
                    if getattr(found, name) is None
                    else number(context, line.model, f"{line.path}.{name}", ".4f")
                    for name in ("q1", "median", "q3")
                ),
                *inside,
                derived("misclassified without any change", line.within(0.0), ",d") if found.distance else none,
                number(context, line.model, f"{line.path}.censored", ",d") if found.distance else none,
                *([Markup('<span class="error">{}</span>').format(found.error or "none")] if failed else []),
            ]
        )
    heads = [
        "Model",
        "Attack",
        "n",
        "First quartile",
        "Median",
        "Third quartile",
        *(["Within eps"] if own else []),
        "At distance 0",
        "None found",
        *(["Error"] if failed else []),
    ]
    return table(f"Quartiles of the smallest distance, {norm}", heads, rows)


def _draw(context: Context, place: int, norm: str, some: list[Line]) -> Markup | None:
    shown = [line for line in some if line.found.distance]
    if not shown:
        return None
    title = f"Share of samples with an adversarial example within a distance, {norm}"
    described = "; ".join(
        f"{context.names[line.model]}: {len(line.known)} of {line.found.n} samples, the farthest at "
        f"{line.known[-1][0] if line.known else 0:.4f}"
        for line in shown
    )
    rows = [row for line in shown for row in _steps(context, line)]
    heads = ["Model", "Attack", "Share of the samples", "Distance at most"]
    svg = draw(f"minimum-{place}", title, described, partial(_paint, context, norm, shown), (7.4, 3.4))
    return figure(f"minimum-{place}", svg, title, table(f"Data: smallest distances, {norm}", heads, rows))


def _steps(context: Context, line: Line) -> Iterator[list[Markup | str]]:
    known = line.known
    for step in range(1, STEPS + 1):
        rank = math.ceil(step * line.found.n / STEPS)
        at = f"{line.path}.distance.{known[rank - 1][1]}" if rank <= len(known) else None
        yield [
            model_tag(context, line.model),
            line.found.attack,
            derived("share of the samples", step / STEPS, ".0%"),
            number(context, line.model, at, ".4f") if at else BEYOND,
        ]


def _paint(context: Context, norm: str, some: list[Line], axes: Axes) -> None:
    threats = [context.evaluations[line.model].threat for line in some]
    own = [threat for threat in threats if threat.norm == norm]
    factor, unit = units(threat.eps_text for threat in own)
    ends = [line.known[-1][0] for line in some if line.known] + [1.2 * threat.eps for threat in own]
    right = 1.04 * factor * max(ends, default=0.0) or 1.0
    seen: dict[int, int] = {}
    attacks = len({line.found.attack for line in some}) > 1
    for line in some:
        turn = seen[line.model] = seen.get(line.model, -1) + 1
        x = [0.0, *(factor * distance for distance, _ in line.known), right]
        y = [100 * i / line.found.n for i in range(len(line.known) + 1)]
        y.append(y[-1])
        name = shorten(context.names[line.model], 30)
        axes.step(
            x, y, where="post", color=SERIES[line.model % 4], linestyle=STYLES[(line.model + turn) % 4],
            label=f"{name}, {shorten(line.found.attack)}" if attacks else name,
        )  # fmt: skip
    _mark_censored(some, axes)
    mark_eps(context, [line.model for line in some], norm, factor, axes)
    axes.set_xlim(0, right)
    axes.set_ylim(-3, 103)
    axes.set_xlabel(f"distance, {norm} norm, {unit}")
    axes.set_ylabel("samples in %")
    axes.grid(axis="both")
    if len(some) > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.07), ncols=2)


def _mark_censored(some: list[Line], axes: Axes) -> None:
    """Says beside the end of each curve that stays below 100% how many samples it lacks."""
    room = 103.0
    for line in sorted(some, key=lambda line: -len(line.known) / line.found.n):
        if line.found.censored:
            room = min(100 * len(line.known) / line.found.n, room - 14)
            axes.annotate(
                f"none found:\n{line.found.censored:,} of {line.found.n:,}", (1, room), (4, 0),
                xycoords=("axes fraction", "data"), textcoords="offset points", ha="left", va="center", fontsize=9,
                color=SERIES[line.model % 4],
            )  # fmt: skip
