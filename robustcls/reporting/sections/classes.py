"""The section Classes: the accuracy of each class, and the classes that are predicted under attack."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import FEW, Context, Model
from robustcls.reporting.figures import SERIES, plot, rows_of_shares
from robustcls.reporting.html import Row, between, derived, fill_file, heat_table, lacking, piece, points, share
from robustcls.results.comparison import ClassCounts, by_data, count_classes, data_class, held
from robustcls.results.statistics import paired_difference, wilson

ORDER, TITLE = 60, "Classes"

DRAWN = 20  # largest number of classes in a figure
SQUARE = 12  # largest size of the confusion table; further classes are summed
PAIRS = 10  # number of most frequent mistakes that are listed


def classes(context: Context) -> Markup:
    """Clean and robust accuracy by class, and the confusion under attack."""
    by_class = count_by_class(context) if context.comparable else []
    return fill_file(
        "classes.html",
        context,
        parts=[_part(model) for model in context.models],
        few=FEW,
        most=DRAWN,
        change=_change,
        wilson=wilson,
        paired=class_rows(context, by_class),
        paired_grey=small_classes([counts[0] for counts in by_class]),
    )


def count_by_class(context: Context) -> list[tuple[ClassCounts, ...]]:
    """For each class, the counts of every model, on the same samples."""
    return list(zip(*(count_classes(by_data(evaluation)) for evaluation in context.evaluations), strict=True))


def class_rows(context: Context, by_class: Sequence[tuple[ClassCounts, ...]]) -> list[Row]:
    """Rows with the robust accuracy of every model by class, and the paired difference of the last model from the first."""
    samples = [by_data(context.evaluations[model]) for model in (0, -1)]
    difference = "Difference, points" if len(context.models) == 2 else "Last minus first, points"
    rows: list[Row] = []
    for counts in by_class:
        label = counts[0].label
        first, last = ([held(sample) for sample in some if sample.label == label] for some in samples)
        value, ends = paired_difference(first, last)
        robust = zip(context.models, counts, strict=True)
        rows.append(
            {
                "Class": data_class(context.evaluations[0], label),
                "n": derived("class n", counts[0].total, ",d"),
                **{model.tag: share("class robust", row.accuracy) for model, row in robust},
                difference: points("class difference", value),
                "95% interval, points": between(ends, points),
            }
        )
    return rows


def _part(model: Model) -> dict[str, object] | None:
    samples = model.evaluation.samples
    rows = count_classes(samples)
    if not rows:
        return None
    labels = sorted({sample.label for sample in samples} | {sample.adversarial for sample in samples}, key=_place)
    return {
        "drawn": _draw(model, rows),
        "rows": rows,
        "grey": small_classes(rows),
        "summed": len(labels) > SQUARE,
        "total": len(samples),
        "confusion": _confusion(model, labels),
        "mistakes": _mistakes(model),
        "severity": _severity(model),
    }


def small_classes(rows: Sequence[ClassCounts]) -> list[int]:
    """The indices of the classes with fewer than FEW samples."""
    return [i for i, row in enumerate(rows) if row.total < FEW]


def _change(row: ClassCounts) -> tuple[float, float]:
    """The interval of the change from clean to robust accuracy: the negative Wilson interval of the share of samples that the
    attacks broke, because every robust sample is also correct on its clean image."""
    low, high = wilson(row.clean - row.robust, row.total)
    return -high, -low


def _place(label: int | None) -> float:
    return math.inf if label is None else label  # no predicted class: sorted last


def _confusion(model: Model, labels: list[int | None]) -> Markup:
    samples = model.evaluation.samples
    rest = len(labels) > SQUARE
    if rest:
        errors = Counter(label for s in samples if not held(s) for label in (s.label, s.adversarial))
        labels = sorted(sorted(labels, key=lambda label: (-errors[label], _place(label)))[: SQUARE - 1], key=_place)
    places = {label: i for i, label in enumerate(labels)}
    side = len(labels) + rest
    counts = [[0] * side for _ in range(side)]
    for sample in samples:
        counts[places.get(sample.label, side - 1)][places.get(sample.adversarial, side - 1)] += 1
    names = [model.class_name(label) for label in labels] + ["all others"] * rest
    title = f"Confusion of {model.name} under attack"
    return heat_table(title, "confusion", "True class", names, counts, [sum(row) for row in counts])


def _mistakes(model: Model) -> list[tuple[str, str, int, float]]:
    """The most frequent mistakes: (true class, prediction, number of samples, share of the true class)."""
    samples = model.evaluation.samples
    mistakes = Counter((s.label, s.adversarial) for s in samples if s.label != s.adversarial)
    totals = Counter(sample.label for sample in samples)
    ranked = sorted(mistakes.items(), key=lambda item: (-item[1], item[0][0], _place(item[0][1])))[:PAIRS]
    return [
        (model.class_name(source), model.class_name(target), count, count / totals[source])
        for (source, target), count in ranked
    ]


def _severity(model: Model) -> list[Row]:
    """Rows with the severity of the mistakes in the class tree; empty if no tree was given."""
    found = model.evaluation.severity
    rows: list[Row] = []
    for head, name in (("Clean", "clean"), ("Under attack", "robust")) if found else ():
        path, mistakes = f"severity.{name}", getattr(found, name)
        ends = [lacking("none")] if mistakes.mean is None else [model.n(f"{path}.ci95.{end}", ".2f") for end in (0, 1)]
        rows.append(
            {
                "Images": head,
                "Mistakes": model.n(f"{path}.apart.total", ",d"),
                "Mean severity": model.n(f"{path}.mean", ".2f"),
                "95% interval": piece("between", *ends) if len(ends) > 1 else ends[0],
                "By chance": model.n(f"{path}.chance", ".2f"),
                "No group in common": model.interval(f"{path}.apart"),
            }
        )
    return rows


def _draw(model: Model, every: list[ClassCounts]) -> Markup:
    rows = sorted(every, key=lambda row: (-row.drop, row.label))[:DRAWN]
    names = [model.class_name(row.label) for row in rows]
    title = f"Accuracy by class of {model.name}"
    data = [
        {
            "Class": name,
            "Clean": share("class clean", row.clean / row.total),
            "Robust": share("class robust", row.accuracy),
        }
        for name, row in zip(names, rows, strict=True)
    ]

    def paint(axes: Axes) -> None:
        colour = SERIES[model.series]
        for place, row in enumerate(reversed(rows)):
            faint = 0.45 if row.total < FEW else 1.0
            ends = [100 * row.robust / row.total, 100 * row.clean / row.total]
            axes.plot(ends, [place, place], color=colour, linewidth=1, alpha=0.45 * faint)
            for correct, y, face in ((row.clean, place + 0.14, "none"), (row.robust, place - 0.14, colour)):
                ends = [100 * end for end in wilson(correct, row.total)]
                axes.plot(ends, [y, y], color=colour, linewidth=1.2, alpha=faint)
                style: Any = {"color": colour, "markerfacecolor": face, "markersize": 5}
                axes.plot([100 * correct / row.total], [y], "o", alpha=faint, **style)
        rows_of_shares(axes, names, "accuracy in % (hollow: clean, filled: under attack)")

    caption = title + (f": the {DRAWN} largest drops" if len(every) > DRAWN else ": largest drop first")
    size = (7.4, 1 + 0.26 * len(rows))
    return plot(f"classes-{model.place}", title, paint, data, caption=caption, size=size)
