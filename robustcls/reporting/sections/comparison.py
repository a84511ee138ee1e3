"""Two or more models on identical samples."""

from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.evaluation.measures.minimum.record import MinimumNorm
from robustcls.reporting.context import Context
from robustcls.reporting.figures import SERIES, draw, shorten
from robustcls.reporting.html import (
    derived,
    estimate,
    figure,
    fill_file,
    interval,
    model_tag,
    not_run,
    number,
    p_value,
    points,
    table,
)
from robustcls.reporting.missing import ONE_MODEL
from robustcls.reporting.sections.classes import FEW
from robustcls.reporting.sections.minimum import BEYOND, not_measured
from robustcls.results.balance import Measure, measures_by_class
from robustcls.results.comparison import ClassCounts, by_data, count_classes, data_class, held, pair
from robustcls.results.records import Evaluation
from robustcls.results.statistics import paired_difference

ORDER, TITLE = 140, "Comparison"

DRAWN = 20  # classes: those with the largest gains and the largest losses
NONE = Markup('<span class="none">not measured</span>')
UNLIKE = Markup('<span class="none">not on the same samples</span>')


def comparison(context: Context) -> Markup:
    """Key figures side by side, paired differences, agreement and classes; refused where the evaluations are unlike."""
    if not context.several:
        return not_run(ONE_MODEL)
    if context.mismatch:
        return fill_file("comparison.html", context, overview=None)
    drawn, classes = _classes(context)
    return fill_file(
        "comparison.html",
        context,
        overview=_overview(context),
        differences=_differences(context),
        agreement=_agreement(context),
        drawn=drawn,
        classes=classes,
        few=FEW,
    )


def _overview(context: Context) -> Markup:
    models = range(len(context.evaluations))
    rows: list[list[Markup | str]] = [
        ["Clean accuracy", *(interval(context, model, "clean") for model in models)],
        ["Robust accuracy", *(interval(context, model, "robust") for model in models)],
    ]
    by_name = [{one.full_name: one for one in measures_by_class(found)} for found in context.evaluations]
    for name in dict.fromkeys(name for found in by_name for name in found):  # each class has a sensitivity of its own
        rows += [
            [f"{name}, {when}", *(_measure(found.get(name), part) for found in by_name)]
            for part, when in (("clean", "clean"), ("robust", "under attack"))
        ]
    for part, images in (("clean", "clean images"), ("adversarial", "images under attack")):
        rows.append([f"Calibration error (ECE), {images}", *(_ece(context, model, part) for model in models)])
    measured = next((one.corruptions for one in context.evaluations if one.corruptions), None)
    of = Markup(", n = {}").format(derived("corrupted samples", measured.n, ",d")) if measured else ""
    rows.append([Markup("Mean accuracy under corruptions{}").format(of), *_corrupted(context)])
    rows += _distances(context)
    return table(
        "Models side by side", ["Measure", *(model_tag(context, model) for model in models)], rows, sortable=False
    )


def _measure(found: Measure | None, part: str) -> Markup:
    return NONE if found is None else estimate(found.name, getattr(found, part), found.spec)


def _ece(context: Context, model: int, part: str) -> Markup:
    there = context.evaluations[model].calibration is not None
    return number(context, model, f"calibration.{part}.ece", ".3f") if there else NONE


def _corrupted(context: Context) -> list[Markup]:
    found = [one.corruptions for one in context.evaluations]
    alike = len({(one.n, one.rule, one.source) for one in found if one is not None}) <= 1
    return [
        NONE if one is None else number(context, model, "corruptions.mean", ".1%") if alike else UNLIKE
        for model, one in enumerate(found)
    ]


def _distances(context: Context) -> list[list[Markup | str]]:
    """The median distance of the nearest adversarial example, by norm and attack."""
    kinds = dict.fromkeys((one.norm, one.attack) for e in context.evaluations for one in e.minimum or [])
    rows: list[list[Markup | str]] = []
    for norm, attack in kinds:
        places = [_place(evaluation, norm, attack) for evaluation in context.evaluations]
        alike = len({tuple(found.index) for _, found in filter(None, places) if found.distance}) <= 1
        cells = [
            NONE
            if place is None
            else not_measured(place[1])
            if not place[1].distance
            else UNLIKE
            if not alike
            else BEYOND
            if place[1].median is None
            else number(context, model, f"minimum.{place[0]}.median", ".4f")
            for model, place in enumerate(places)
        ]
        of = derived("samples", next(found.n for _, found in filter(None, places)), ",d")
        title = Markup("Median smallest distance, {}, n = {}<br>{}<br>0 for each sample that is wrong unchanged")
        rows.append([title.format(norm, of, attack), *cells])
    return rows


def _place(evaluation: Evaluation, norm: str, attack: str) -> tuple[int, MinimumNorm] | None:
    for i, found in enumerate(evaluation.minimum or []):
        if (found.norm, found.attack) == (norm, attack):
            return i, found
    return None


def _differences(context: Context) -> Markup:
    first, *others = context.evaluations
    rows: list[list[Markup | str]] = [
        [
            Markup("{} minus {}").format(model_tag(context, model), model_tag(context, 0)),
            one.part,
            points("difference", one.difference),
            Markup("{} to {}").format(points("low", one.low), points("high", one.high)),
            derived("only first right", one.only_first, ",d"),
            derived("only second right", one.only_second, ",d"),
            p_value("mcnemar", one.p),
        ]
        for model, other in enumerate(others, 1)
        for one in pair(first, other)
    ]
    heads = [
        "Difference",
        "Accuracy\u00a0of",
        "Points",
        "95% interval, points",
        "Only first right",
        "Only second right",
        "McNemar, exact",
    ]
    return table("Paired differences", heads, rows)


def _agreement(context: Context) -> Markup:
    rows: list[list[Markup | str]] = []
    for model in range(1, len(context.evaluations)):
        pairs = list(
            zip(map(held, context.evaluations[0].samples), map(held, context.evaluations[model].samples), strict=True)
        )
        counts = [pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        rows.append(
            [
                Markup("{} and {}").format(model_tag(context, 0), model_tag(context, model)),
                *(derived(f"agreement {i}", count, ",d") for i, count in enumerate([*counts, len(pairs)])),
            ]
        )
    heads = ["Models", "Both hold", "Only the first holds", "Only the second holds", "Neither holds", "Samples"]
    return table("Agreement under attack", heads, rows)


def _classes(context: Context) -> tuple[Markup, str]:
    """The figure of robust accuracy by class, and what it leaves out."""
    everyone = [count_classes(by_data(evaluation)) for evaluation in context.evaluations]
    by_class = list(zip(*everyone, strict=True))
    by_class.sort(key=lambda rows: (_gain(rows), rows[0].label))
    left_out = len(by_class) - DRAWN
    if left_out > 0:
        by_class = by_class[: DRAWN // 2] + by_class[-DRAWN // 2 :]
    title = "Robust accuracy by class, model by model"
    described = "; ".join(
        f"{data_class(context.evaluations[0], rows[0].label)}: "
        + ", ".join(f"{row.robust / row.total:.0%}" for row in rows)
        for rows in by_class
    )
    height = 1.3 + 0.26 * len(by_class)
    svg = draw("comparison", title, described, partial(_paint, context, by_class), (7.4, height))
    data = _class_table(context, by_class)
    caption = title + ", from the largest gain of the last model over the first to its largest loss"
    words = (
        f"Only the {DRAWN // 2} largest gains and the {DRAWN // 2} largest losses are drawn." if left_out > 0 else ""
    )
    return figure("comparison", svg, caption, data), words


def _gain(rows: tuple[ClassCounts, ...]) -> float:
    return (rows[-1].robust - rows[0].robust) / rows[0].total


def _class_table(context: Context, by_class: list[tuple[ClassCounts, ...]]) -> Markup:
    cells = []
    for rows in reversed(by_class):
        label = rows[0].label
        ours, theirs = (
            [held(sample) for sample in by_data(context.evaluations[model]) if sample.label == label]
            for model in (0, len(rows) - 1)
        )
        difference, (low, high) = paired_difference(ours, theirs)
        cells.append(
            [
                data_class(context.evaluations[0], label),
                derived("class n", rows[0].total, ",d"),
                *(derived("class robust", row.robust / row.total, ".1%") for row in rows),
                points("class difference", difference),
                points("low", low),
                points("high", high),
            ]
        )
    names = [model_tag(context, model) for model in range(len(context.evaluations))]
    grey = [i for i, rows in enumerate(reversed(by_class)) if rows[0].total < FEW]
    heads = ["Class", "n", *names, "Last minus first, points", "95% low", "95% high"]
    return table("Data: robust accuracy by class, model by model", heads, cells, grey=grey)


def _paint(context: Context, by_class: list[tuple[ClassCounts, ...]], axes: Axes) -> None:
    for model, name in enumerate(context.names):
        axes.plot([], [], "os^v"[model % 4], color=SERIES[model % 4], label=shorten(name, 30))
    for place, rows in enumerate(by_class):
        shares = [100 * row.robust / row.total for row in rows]
        faint = 0.45 if rows[0].total < FEW else 1.0
        axes.plot([min(shares), max(shares)], [place, place], color=SERIES[0], linewidth=1.2, alpha=0.5 * faint)
        for model, share in enumerate(shares):
            axes.plot([share], [place], "os^v"[model % 4], color=SERIES[model % 4], markersize=6, alpha=faint)
    axes.set_yticks(
        range(len(by_class)), [shorten(data_class(context.evaluations[0], rows[0].label)) for rows in by_class]
    )
    axes.set_ylim(-0.7, len(by_class) - 0.3)
    axes.set_xlim(-3, 103)
    axes.set_xlabel("robust accuracy in %")
    axes.grid(axis="x")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
