"""Accuracies with intervals; the comparison section has their paired differences."""

from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import Context
from robustcls.reporting.figures import INK, SERIES, draw, shorten
from robustcls.reporting.html import estimate, figure, fill_file, model_tag, number, table
from robustcls.results.balance import measures_by_class, two_classes_of
from robustcls.results.records import Accuracy

ORDER, TITLE = 30, "Accuracy"


def accuracy(context: Context) -> Markup:
    """Clean and robust accuracy of each model."""
    rows = [_row(context, model, part) for model in range(len(context.evaluations)) for part in ("clean", "robust")]
    heads = ["Model", "Accuracy\u00a0of", "Share", "95% low", "95% high", "Correct", "Samples"]
    size = (7.4, 0.9 + 0.62 * len(context.evaluations))
    title = "Clean and robust accuracy"
    described = "; ".join(
        f"{name}: clean {one.clean.accuracy:.1%}, robust {one.robust.accuracy:.1%}"
        for name, one in zip(context.names, context.evaluations, strict=True)
    )
    svg = draw("accuracy", title, described, partial(_paint, context), size)
    found = [two_classes_of(one) for one in context.evaluations]
    return fill_file(
        "accuracy.html",
        context,
        drawn=figure("accuracy", svg, title + " with 95% intervals", table("Data: accuracy", heads, rows)),
        accuracies=table("Accuracy by model", heads, rows),
        by_class=_by_class(context),
        two_classes=any(found),
        rules=sorted({one.rule for one in found if one and one.rule}),
    )


def _by_class(context: Context) -> Markup | None:
    """Balanced accuracy, and of two classes sensitivity, specificity and ROC-AUC, of each model that has samples."""
    rows = [
        [
            model_tag(context, model),
            one.full_name,
            estimate(f"{one.name}, clean", one.clean, one.spec),
            estimate(f"{one.name}, robust", one.robust, one.spec),
        ]
        for model, evaluation in enumerate(context.evaluations)
        for one in measures_by_class(evaluation)
    ]
    heads = ["Model", "Measure", "Clean [95% interval]", "Under attack [95% interval]"]
    return table("Whatever the classes' sizes", heads, rows, sortable=False) if rows else None


def _row(context: Context, model: int, part: str) -> list[Markup | str]:
    shares = (f"{part}.accuracy", f"{part}.ci95.0", f"{part}.ci95.1")
    return [
        model_tag(context, model),
        {"clean": "clean images", "robust": "images under attack"}[part],
        *(number(context, model, path, ".1%") for path in shares),
        *(number(context, model, f"{part}.{count}", ",d") for count in ("correct", "total")),
    ]


def _paint(context: Context, axes: Axes) -> None:
    count = len(context.evaluations)
    for model, one in enumerate(context.evaluations):
        colour, y = SERIES[model % 4], count - 1 - model
        axes.plot([100 * one.robust.accuracy, 100 * one.clean.accuracy], [y, y], color=colour, linewidth=1, alpha=0.5)
        _paint_one(axes, one.clean, y, colour, hollow=True)
        _paint_one(axes, one.robust, y, colour, hollow=False)
    axes.set_yticks(range(count), [shorten(name, 28) for name in reversed(context.names)])
    axes.set_xlim(-3, 103)
    axes.set_ylim(-0.7, count - 0.3)
    axes.set_xlabel("accuracy in % (hollow: clean, filled: under attack)")
    axes.grid(axis="x")


def _paint_one(axes: Axes, found: Accuracy, y: float, colour: str, hollow: bool) -> None:
    low, high = (100 * end for end in found.ci95)
    share = 100 * found.accuracy
    axes.errorbar(
        [share],
        [y],
        xerr=[[share - low], [high - share]],
        fmt="o",
        color=colour,
        capsize=3,
        markersize=7,
        markerfacecolor="none" if hollow else colour,
    )
    axes.annotate(f"{share:.1f}", (share, y), (0, 9), textcoords="offset points", ha="center", color=INK, fontsize=9)
