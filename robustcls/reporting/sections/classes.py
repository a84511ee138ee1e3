"""Which classes fall, and what they are taken for."""

import math
from collections import Counter
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import Context
from robustcls.reporting.figures import INK, SERIES, draw, shorten
from robustcls.reporting.html import derived, figure, fill_file, heat_table, model_tag, points, table
from robustcls.results.comparison import ClassCounts, by_data, count_classes, data_class, held
from robustcls.results.statistics import paired_difference, wilson

ORDER, TITLE = 60, "Classes"

FEW = 30  # samples, below which an accuracy says little
DRAWN = 20  # classes in a figure
SQUARE = 12  # classes in the confusion table; the rest are summed
PAIRS = 10


def classes(context: Context) -> Markup:
    """Clean and robust accuracy by class, and the confusion under attack."""
    parts = [_part(context, model) for model in range(len(context.evaluations))]
    paired = _pair(context) if context.comparable else None
    return fill_file("classes.html", context, parts=parts, few=FEW, paired=paired)


def _change(row: ClassCounts) -> Markup:
    """The Wilson interval of the samples that the attacks took, for a sample stands only where it was right."""
    low, high = wilson(row.clean - row.robust, row.total)
    return Markup("{} to {}").format(points("change low", -high), points("change high", -low))


def _part(context: Context, model: int) -> dict[str, object] | None:
    rows = count_classes(context.evaluations[model].samples)
    if not rows:
        return None
    name = context.names[model]
    heads = [
        "Class",
        "n",
        "Clean",
        "95% interval, clean",
        "Robust",
        "95% interval, robust",
        "Change, points",
        "95% interval, change",
    ]
    cells = [
        [
            context.class_name(model, row.label),
            derived("class n", row.total, ",d"),
            derived("class clean", row.clean / row.total, ".1%"),
            _interval(row.clean, row.total),
            derived("class robust", row.robust / row.total, ".1%"),
            _interval(row.robust, row.total),
            points("drop", -row.drop),
            _change(row),
        ]
        for row in rows
    ]
    grey = [i for i, row in enumerate(rows) if row.total < FEW]
    listed = table(f"Classes of {name}", heads, cells, grey=grey)
    many = len(rows) > DRAWN
    folded = Markup("<details><summary>All {} classes</summary>{}</details>").format(len(rows), listed)
    return {
        "drawn": _draw(context, model, rows),
        "table": folded if many else listed,
        "summed": len(_labels(context, model)) > SQUARE,
        "total": len(context.evaluations[model].samples),
        "confusion": _confusion(context, model),
        "pairs": _pairs(context, model),
    }


def _interval(correct: int, total: int) -> Markup:
    low, high = wilson(correct, total)
    return Markup("{} to {}").format(derived("low", low, ".1%"), derived("high", high, ".1%"))


def _labels(context: Context, model: int) -> list[int | None]:
    samples = context.evaluations[model].samples
    return sorted({sample.label for sample in samples} | {sample.adversarial for sample in samples}, key=_place)


def _place(label: int | None) -> float:
    return math.inf if label is None else label  # no answer comes last


def _confusion(context: Context, model: int) -> Markup:
    samples = context.evaluations[model].samples
    labels = _labels(context, model)
    rest = len(labels) > SQUARE
    if rest:
        errors = Counter(label for s in samples if not held(s) for label in (s.label, s.adversarial))
        labels = sorted(sorted(labels, key=lambda label: (-errors[label], _place(label)))[: SQUARE - 1], key=_place)
    places = {label: i for i, label in enumerate(labels)}
    side = len(labels) + rest
    counts = [[0] * side for _ in range(side)]
    for sample in samples:
        counts[places.get(sample.label, side - 1)][places.get(sample.adversarial, side - 1)] += 1
    names = [context.class_name(model, label) for label in labels] + ["all others"] * rest
    shares = [[count / (sum(row) or 1) for count in row] for row in counts]
    label = f"Confusion of {context.names[model]} under attack"
    return heat_table(label, "confusion", "True class", names, counts, shares)


def _pairs(context: Context, model: int) -> Markup | None:
    samples = context.evaluations[model].samples
    mistakes = Counter((s.label, s.adversarial) for s in samples if s.label != s.adversarial)
    totals = Counter(sample.label for sample in samples)
    ranked = sorted(mistakes.items(), key=lambda item: (-item[1], item[0][0], _place(item[0][1])))[:PAIRS]
    rows = [
        [
            Markup("{} → {}").format(context.class_name(model, source), context.class_name(model, target)),
            derived("mistakes", count, ",d"),
            derived("share of the class", count / totals[source], ".1%"),
        ]
        for (source, target), count in ranked
    ]
    if not rows:
        return None
    heads = ["True class → prediction", "Samples", "Share of the true class"]
    return table(f"Mistakes of {context.names[model]}", heads, rows)


def _pair(context: Context) -> Markup:
    everyone = [count_classes(by_data(evaluation)) for evaluation in context.evaluations]
    rows = []
    for i, first in enumerate(everyone[0]):
        row: list[Markup | str] = [
            data_class(context.evaluations[0], first.label),
            derived("class n", first.total, ",d"),
        ]
        row += [derived("class robust", some[i].robust / some[i].total, ".1%") for some in everyone]
        ours, theirs = (
            [held(sample) for sample in by_data(context.evaluations[model]) if sample.label == first.label]
            for model in (0, len(everyone) - 1)
        )
        difference, (low, high) = paired_difference(ours, theirs)
        row += [
            points("class difference", difference),
            Markup("{} to {}").format(points("low", low), points("high", high)),
        ]
        rows.append(row)
    names = [model_tag(context, model) for model in range(len(everyone))]
    last = "Difference, points" if len(everyone) == 2 else "Last minus first, points"
    grey = [i for i, row in enumerate(everyone[0]) if row.total < FEW]
    inner = table("Classes side by side", ["Class", "n", *names, last, "95% interval, points"], rows, grey=grey)
    if len(rows) <= DRAWN:
        return inner
    return Markup("<details><summary>All {} classes</summary>{}</details>").format(len(rows), inner)


def _draw(context: Context, model: int, rows: list[ClassCounts]) -> Markup:
    drawn = sorted(rows, key=lambda row: (-row.drop, row.label))[:DRAWN]
    many = len(rows) > DRAWN
    title = f"Accuracy by class of {context.names[model]}"
    caption = title + (f": the {DRAWN} largest drops" if many else ": largest drop first")
    described = ", ".join(
        f"{context.class_name(model, row.label)} {row.clean / row.total:.0%} to {row.robust / row.total:.0%}"
        for row in drawn
    )
    svg = draw(
        f"classes-{model}", title, described, partial(_paint, context, model, drawn), (7.4, 1 + 0.26 * len(drawn))
    )
    data = table(
        f"Data: classes of {context.names[model]}",
        ["Class", "Clean", "Robust"],
        [
            [
                context.class_name(model, row.label),
                derived("class clean", row.clean / row.total, ".1%"),
                derived("class robust", row.robust / row.total, ".1%"),
            ]
            for row in drawn
        ],
    )
    return figure(f"classes-{model}", svg, caption, data)


def _paint(context: Context, model: int, rows: list[ClassCounts], axes: Axes) -> None:
    colour = SERIES[model % 4]
    for place, row in enumerate(reversed(rows)):
        faint = 0.45 if row.total < FEW else 1.0
        ends = [100 * row.robust / row.total, 100 * row.clean / row.total]
        axes.plot(ends, [place, place], color=colour, linewidth=1, alpha=0.45 * faint)
        for correct, shift, face in ((row.clean, 0.14, "none"), (row.robust, -0.14, colour)):
            share = 100 * correct / row.total
            low, high = (100 * end for end in wilson(correct, row.total))
            axes.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.2, alpha=faint)
            axes.plot([share], [place + shift], "o", color=colour, markerfacecolor=face, markersize=5, alpha=faint)
    axes.set_yticks(range(len(rows)), [shorten(context.class_name(model, row.label)) for row in reversed(rows)])
    axes.set_xlim(-3, 103)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel("accuracy in % (hollow: clean, filled: under attack)", color=INK)
    axes.grid(axis="x")
