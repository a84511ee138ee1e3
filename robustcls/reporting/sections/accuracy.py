"""The section Accuracy: accuracies with intervals. The section Comparison has the paired differences."""

from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import Context
from robustcls.reporting.figures import INK, SERIES, plot, rows_of_shares
from robustcls.reporting.html import fill_file, table
from robustcls.results.balance import measures_by_class, two_classes_of

ORDER, TITLE = 30, "Accuracy"


def accuracy(context: Context) -> Markup:
    """Clean and robust accuracy of each model, and the measures that do not depend on class sizes."""
    rows = [
        {"Model": model.tag, "Images": images, **model.shares(part)}
        for model in context.models
        for part, images in (("clean", "clean images"), ("robust", "images under attack"))
    ]

    def paint(axes: Axes) -> None:
        for model in context.models:
            colour, one, y = SERIES[model.series], model.evaluation, len(context.models) - 1 - model.place
            ends = [100 * one.robust.accuracy, 100 * one.clean.accuracy]
            axes.plot(ends, [y, y], color=colour, linewidth=1, alpha=0.5)
            for found, face in ((one.clean, "none"), (one.robust, colour)):
                low, share, high = (100 * value for value in (found.ci95[0], found.accuracy, found.ci95[1]))
                bars, style = (
                    [[share - low], [high - share]],
                    dict[str, Any](capsize=3, markersize=7, markerfacecolor=face),
                )
                axes.errorbar([share], [y], xerr=bars, fmt="o", color=colour, **style)
                where: Any = {"textcoords": "offset points", "ha": "center"}
                axes.annotate(f"{share:.1f}", (share, y), (0, 9), color=INK, fontsize=9, **where)
        rows_of_shares(axes, context.names, "accuracy in % (hollow: clean, filled: under attack)", 28)

    title, size = "Clean and robust accuracy", (7.4, 0.9 + 0.62 * len(context.models))
    two = [found for one in context.evaluations if (found := two_classes_of(one))]
    return fill_file(
        "accuracy.html",
        context,
        drawn=plot("accuracy", title, paint, rows, caption=f"{title} with 95% intervals", size=size),
        accuracies=table("Accuracy by model", rows),
        measures=[(model, measures_by_class(model.evaluation)) for model in context.models],
        two_classes=bool(two),
        rules=sorted({one.rule for one in two if one.rule}),
    )
