"""The section Corruptions: accuracy under noise, blur, weather and digital corruptions, which no attacker chose."""

from statistics import fmean

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.evaluation.measures.corruptions.record import Corruptions
from robustcls.reporting.context import UNLIKE, Context, Model, sentence
from robustcls.reporting.figures import MARKERS, SERIES, legend_above, plot, rows_of_shares, shorten
from robustcls.reporting.html import derived, fill_file, lacking, piece, share
from robustcls.reporting.missing import missing_of

GROUPS = {
    "Noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "Blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "Weather": ("snow", "frost", "fog", "brightness"),
    "Digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}


def corruptions(context: Context) -> Markup:
    """Accuracy by corruption and severity, the means, and several models side by side."""
    held = [(model, found) for model in context.models if (found := model.evaluation.corruptions) and found.results]
    return fill_file(
        "corruptions/section.html",
        context,
        parts=[_part(*one) for one in held],
        drawn=_draw(context, held) if held else None,
        missing=missing_of(context, "corruptions"),
    )


def compared(context: Context) -> list[tuple[Markup | str, list[Markup]]]:
    """The mean accuracy of each model, where it was measured on the same samples."""
    found = [one.corruptions for one in context.evaluations if one.corruptions]
    alike = len({(one.n, one.rule, one.source) for one in found}) <= 1
    cells = [
        (one.n("corruptions.mean", ".1%") if alike else lacking(UNLIKE)) if one.evaluation.corruptions else lacking()
        for one in context.models
    ]
    name = "Mean accuracy under corruptions"
    return [(piece("of_n", name, derived("corrupted samples", found[0].n, ",d")) if found else name, cells)]


def _part(model: Model, found: Corruptions) -> dict[str, object]:
    severities = sorted({one.severity for one in found.results})
    columns = [fmean(one.accuracy.accuracy for one in found.results if one.severity == at) for at in severities]
    return {
        "model": model,
        "found": found,
        "title": _title,
        "notes": [sentence(text) for text in (found.rule, found.source, found.note)],
        "severities": severities,
        "groups": {
            group: [(name, fmean(_of(found, name))) for name in some] for group, some in _grouped(found).items()
        },
        "places": {(one.name, one.severity): i for i, one in enumerate(found.results)},
        "columns": columns,
    }


def _of(found: Corruptions, name: str) -> list[float]:
    """The accuracies under one corruption."""
    return [one.accuracy.accuracy for one in found.results if one.name == name]


def _grouped(found: Corruptions) -> dict[str, list[str]]:
    """The corruptions that were measured, by group; corruptions of no known group come last."""
    names = list(dict.fromkeys(one.name for one in found.results))
    known = {name for some in GROUPS.values() for name in some}
    groups = {group: [name for name in some if name in names] for group, some in GROUPS.items()}
    groups["Other"] = [name for name in names if name not in known]
    return {group: some for group, some in groups.items() if some}


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize().replace("Jpeg", "JPEG")


def _draw(context: Context, held: list[tuple[Model, Corruptions]]) -> Markup:
    every = [
        (model, found, {name: _of(found, name) for some in _grouped(found).values() for name in some})
        for model, found in held
    ]
    names = list(dict.fromkeys(name for _, _, by_name in every for name in by_name))
    rows = [
        {
            "Corruption": _title(name),
            "Model": model.tag,
            "Mean": share("mean over severities", fmean(by_name[name])),
            "Lowest accuracy": share("lowest accuracy", min(by_name[name])),
            "Highest accuracy": share("highest accuracy", max(by_name[name])),
        }
        for name in names
        for model, _, by_name in every
        if name in by_name
    ]
    title = "Mean accuracy by corruption"

    def paint(axes: Axes) -> None:
        for turn, (model, found, by_name) in enumerate(every):
            colour, marker = SERIES[model.series], MARKERS[model.series]
            shift = 0.22 * ((len(every) - 1) / 2 - turn)
            axes.axvline(100 * found.clean.accuracy, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            axes.plot([], [], "-" + marker, color=colour, label=shorten(model.name))
            places = [(y + shift, by_name[name]) for y, name in enumerate(reversed(names)) if name in by_name]
            y = [place for place, _ in places]
            low, mean, high = ([100 * of(shares) for _, shares in places] for of in (min, fmean, max))
            axes.hlines(y, low, high, color=colour, alpha=0.6)
            axes.plot(mean, y, marker, color=colour, markersize=5)
        rows_of_shares(axes, [_title(name) for name in names], "accuracy in %")
        if context.several:
            legend_above(axes)

    caption = f"{title}; lines: from the lowest accuracy of a severity to the highest; dashed: clean accuracy"
    size = (7.4, 1.2 + len(names) * (0.2 + 0.1 * len(every)))
    return plot("corruptions", title, paint, rows, caption=caption, size=size)
