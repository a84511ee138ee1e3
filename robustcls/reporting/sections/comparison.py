"""The section Comparison: two or more models on the same samples."""

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.core.measures import measures
from robustcls.reporting.context import FEW, Context, Model
from robustcls.reporting.figures import MARKERS, SERIES, legend_above, plot, rows_of_shares, shorten
from robustcls.reporting.html import estimate, fill_file, lacking, not_run, table
from robustcls.reporting.missing import ONE_MODEL
from robustcls.reporting.sections.certified import certified_at
from robustcls.reporting.sections.classes import class_rows, count_by_class
from robustcls.results.balance import measures_by_class
from robustcls.results.comparison import ClassCounts, data_class, held, pair
from robustcls.results.statistics import agreement

ORDER, TITLE = 140, "Comparison"

DRAWN = 20  # largest number of classes in the figure: half with the largest gains, half with the largest losses


def comparison(context: Context) -> Markup:
    """Key figures side by side, paired differences, agreement and classes; only a warning if the models are not comparable."""
    if not context.several:
        return not_run(ONE_MODEL)
    if context.mismatch:
        return fill_file("comparison.html", context, overview=None)
    by_class = sorted(count_by_class(context), key=lambda rows: (_gain(rows), rows[0].label))
    some = by_class[: DRAWN // 2] + by_class[-DRAWN // 2 :] if len(by_class) > DRAWN else by_class
    return fill_file(
        "comparison.html",
        context,
        overview=_overview(context),
        pairs=[(model, one) for model in context.models[1:] for one in pair(context.evaluations[0], model.evaluation)],
        agreement=_agreement(context),
        drawn=_draw(context, some),
        left_out=DRAWN // 2 if len(by_class) > DRAWN else 0,
        few=FEW,
    )


def _overview(context: Context) -> Markup:
    rows: list[tuple[Any, list[Any]]] = [
        (f"{name} accuracy", [model.interval(name.lower()) for model in context.models]) for name in ("Clean", "Robust")
    ]
    if any(model.evaluation.certified for model in context.models):
        rows.append(("Certified accuracy, lower bound", [certified_at(model) for model in context.models]))
    by_name = [{one.full_name: one for one in measures_by_class(found)} for found in context.evaluations]
    for name in dict.fromkeys(
        name for found in by_name for name in found
    ):  # the name of a sensitivity includes its class
        some = [found.get(name) for found in by_name]
        for part, when in (("clean", "clean"), ("robust", "under attack")):
            cells = [lacking() if one is None else estimate(one.name, getattr(one, part), one.spec) for one in some]
            rows.append((f"{name}, {when}", cells))
    for measure in measures():
        if measure.compared:
            rows += measure.load("section").compared(context)
    tags = [model.tag for model in context.models]
    shown = [{"Measure": name, **dict(zip(tags, cells, strict=True))} for name, cells in rows]
    return table("Models side by side", shown, sortable=False)


def _agreement(context: Context) -> list[tuple[Model, tuple[int, ...]]]:
    """For each model except the first, the number of samples that are robust for both, only for the first model, only for this
    model, and for neither."""
    first, *others = ([held(sample) for sample in one.samples] for one in context.evaluations)
    return [(model, agreement(first, other)) for model, other in zip(context.models[1:], others, strict=True)]


def _gain(rows: tuple[ClassCounts, ...]) -> float:
    return (rows[-1].robust - rows[0].robust) / rows[0].total


def _draw(context: Context, by_class: list[tuple[ClassCounts, ...]]) -> Markup:
    """The figure of robust accuracy by class, with the largest gain on top."""
    by_class = by_class[::-1]
    names = [data_class(context.evaluations[0], rows[0].label) for rows in by_class]
    title = "Robust accuracy by class, model by model"

    def paint(axes: Axes) -> None:
        for model in context.models:
            axes.plot([], [], MARKERS[model.series], color=SERIES[model.series], label=shorten(model.name, 30))
        for place, rows in enumerate(reversed(by_class)):
            shares = [100 * row.robust / row.total for row in rows]
            faint = 0.45 if rows[0].total < FEW else 1.0
            axes.plot([min(shares), max(shares)], [place, place], color=SERIES[0], linewidth=1.2, alpha=0.5 * faint)
            for i, share in enumerate(shares):
                axes.plot([share], [place], MARKERS[i % 4], color=SERIES[i % 4], markersize=6, alpha=faint)
        rows_of_shares(axes, names, "robust accuracy in %")
        legend_above(axes)

    grey = [i for i, rows in enumerate(by_class) if rows[0].total < FEW]
    caption = f"{title}, from the largest gain of the last model over the first to its largest loss"
    size, data = (7.4, 1.3 + 0.26 * len(by_class)), class_rows(context, by_class)
    return plot("comparison", title, paint, data, caption=caption, size=size, grey=grey)
