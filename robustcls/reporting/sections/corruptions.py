"""Accuracy under common corruptions: noise, blur, weather and digital ones that no attacker chose."""

from functools import partial
from statistics import fmean

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.evaluation.measures.corruptions.record import Corruptions
from robustcls.reporting.context import Context
from robustcls.reporting.figures import SERIES, draw, shorten
from robustcls.reporting.html import derived, figure, fill_file, interval, model_tag, number, scroll, table
from robustcls.reporting.missing import missing_of
from robustcls.reporting.sections.stability import sentence

ORDER, TITLE = 90, "Corruptions"

GROUPS = {
    "Noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "Blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "Weather": ("snow", "frost", "fog", "brightness"),
    "Digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
NONE = Markup('<span class="none">not measured</span>')


def corruptions(context: Context) -> Markup:
    """Accuracy by corruption and severity, the means, and several models side by side."""
    parts = [_part(context, model) for model in range(len(context.evaluations))]
    held = [model for model, part in enumerate(parts) if part]
    return fill_file(
        "corruptions.html",
        context,
        parts=parts,
        drawn=_draw(context, held) if held else None,
        missing=missing_of(context, "corruptions"),
    )


def _part(context: Context, model: int) -> dict[str, object] | None:
    found = context.evaluations[model].corruptions
    if found is None or not found.results:
        return None
    return {
        "rule": sentence(found.rule),
        "source": sentence(found.source),
        "note": sentence(found.note),
        "heat": _heat(context, model, found),
        "intervals": _intervals(context, model, found),
        "clean": interval(context, model, "corruptions.clean"),
        "same": found.source.startswith("made here"),  # published files hold images of their own
    }


def _grouped(found: Corruptions) -> dict[str, list[str]]:
    """The corruptions that were measured, by group; those that we do not know come last."""
    names = list(dict.fromkeys(one.name for one in found.results))
    known = {name for some in GROUPS.values() for name in some}
    groups = {group: [name for name in some if name in names] for group, some in GROUPS.items()}
    groups["Other"] = [name for name in names if name not in known]
    return {group: some for group, some in groups.items() if some}


def _mean(found: Corruptions, name: str) -> float:
    """Over the severities that were measured."""
    return fmean(one.accuracy.accuracy for one in found.results if one.name == name)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Jpeg", "JPEG")


def _heat(context: Context, model: int, found: Corruptions) -> Markup:
    places = {(one.name, one.severity): i for i, one in enumerate(found.results)}
    severities = sorted({one.severity for one in found.results})
    cell = Markup('<td class="num" style="--heat:{}%">{}</td>')
    bodies = []
    for group, names in _grouped(found).items():
        rows = Markup('<tr><th scope="rowgroup" colspan="{}" class="group">{}</th></tr>\n').format(
            len(severities) + 2, group
        )
        for name in names:
            cells = []
            for severity in severities:
                i = places.get((name, severity))
                share = None if i is None else found.results[i].accuracy.accuracy
                text = (
                    NONE if i is None else number(context, model, f"corruptions.results.{i}.accuracy.accuracy", ".1%")
                )
                cells.append(cell.format(round(100 * (share or 0.0)), text))
            mean = _mean(found, name)
            cells.append(cell.format(round(100 * mean), derived("mean over severities", mean, ".1%")))
            rows += Markup('<tr><th scope="row">{}</th>{}</tr>\n').format(_title(name), Markup("").join(cells))
        bodies.append(Markup("<tbody>\n{}</tbody>").format(rows))
    columns = [
        fmean(one.accuracy.accuracy for one in found.results if one.severity == severity) for severity in severities
    ]
    last = Markup("").join(
        cell.format(round(100 * mean), derived("mean over corruptions", mean, ".1%")) for mean in columns
    )
    overall = cell.format(round(100 * (found.mean or 0.0)), number(context, model, "corruptions.mean", ".1%"))
    head = Markup("").join(Markup('<th scope="col" class="num">Severity {}</th>').format(one) for one in severities)
    whole = Markup(
        '<table class="heat"><thead><tr><th scope="col">Corruption</th>{}<th scope="col" class="num">Mean</th></tr>'
        '</thead>{}<tbody><tr class="total"><th scope="row">Mean of all</th>{}{}</tr></tbody></table>'
    ).format(head, Markup("").join(bodies), last, overall)
    return scroll(f"Accuracy of {context.names[model]} by corruption and severity", whole)


def _intervals(context: Context, model: int, found: Corruptions) -> Markup:
    rows = []
    for i, one in enumerate(found.results):
        at = f"corruptions.results.{i}"
        rows.append(
            [
                _title(one.name),
                number(context, model, f"{at}.severity", "d"),
                *(number(context, model, f"{at}.accuracy.{key}", ".1%") for key in ("accuracy", "ci95.0", "ci95.1")),
                *(number(context, model, f"{at}.accuracy.{key}", ",d") for key in ("correct", "total")),
            ]
        )
    heads = ["Corruption", "Severity", "Accuracy", "95% low", "95% high", "Correct", "Samples"]
    return table(f"Corruptions of {context.names[model]} with intervals", heads, rows)


def _draw(context: Context, models: list[int]) -> Markup:
    some = {model: found for model in models if (found := context.evaluations[model].corruptions) is not None}
    names = list(dict.fromkeys(name for found in some.values() for part in _grouped(found).values() for name in part))
    rows: list[list[Markup | str]] = [
        [_title(name), model_tag(context, model), *_range(found, name)]
        for name in names
        for model, found in some.items()
        if any(one.name == name for one in found.results)
    ]
    title = "Mean accuracy by corruption"
    described = "; ".join(
        f"{context.names[model]}: "
        + ", ".join(f"{_title(name)} {_mean(found, name):.1%}" for part in _grouped(found).values() for name in part)
        for model, found in some.items()
    )
    height = 1.2 + len(names) * (0.2 + 0.1 * len(some))
    svg = draw("corruptions", title, described, partial(_paint, context, some, names), (7.4, height))
    data = table(
        "Data: mean accuracy by corruption",
        ["Corruption", "Model", "Mean", "Lowest accuracy", "Highest accuracy"],
        rows,
    )
    caption = title + "; lines: from the lowest accuracy of a severity to the highest, dashes: clean accuracy"
    return figure("corruptions", svg, caption, data)


def _range(found: Corruptions, name: str) -> list[Markup]:
    shares = [one.accuracy.accuracy for one in found.results if one.name == name]
    return [
        derived("mean over severities", fmean(shares), ".1%"),
        derived("lowest accuracy", min(shares), ".1%"),
        derived("highest accuracy", max(shares), ".1%"),
    ]


def _paint(context: Context, some: dict[int, Corruptions], names: list[str], axes: Axes) -> None:
    for turn, (model, found) in enumerate(some.items()):
        colour = SERIES[model % 4]
        shift = 0.22 * ((len(some) - 1) / 2 - turn)
        axes.axvline(100 * found.clean.accuracy, color=colour, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot([], [], "-" + "os^v"[model % 4], color=colour, label=shorten(context.names[model]))
        every = [
            (place + shift, [100 * one.accuracy.accuracy for one in found.results if one.name == name])
            for place, name in enumerate(reversed(names))
        ]
        y, shares = zip(*[(at, some) for at, some in every if some], strict=True)
        axes.hlines(y, [min(some) for some in shares], [max(some) for some in shares], color=colour, alpha=0.6)
        axes.plot([fmean(some) for some in shares], y, "os^v"[model % 4], color=colour, markersize=5)
    axes.set_yticks(range(len(names)), [shorten(_title(name)) for name in reversed(names)])
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("accuracy in %")
    axes.grid(axis="x")
    if context.several:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
