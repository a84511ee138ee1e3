"""The section What runs: a comparison of the file with the model that it was exported from."""

from functools import partial
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.evaluation.measures.artefact.record import Artefact, Side
from robustcls.evaluation.measures.artefact.verdict import verdict
from robustcls.reporting.context import Context, Model, sentence
from robustcls.reporting.figures import INK, SERIES, plot, shares_upwards
from robustcls.reporting.html import Row, derived, fill_file, lacking, points, table
from robustcls.reporting.missing import missing_of
from robustcls.results.records import Accuracy

SETS = {
    "clean": "Accuracy on clean images",
    "white_box_once": "Accuracy under white-box attacks",
    "white_box": "Accuracy under white-box attacks with two seeds",
    "transfer": "Accuracy under transfer attacks from the other model",
    "square": "Accuracy under white-box attacks, then Square",
    "union": "Accuracy under all attacks (union)",
}
DRAWN = {"clean": "clean", "white_box": "white-box attacks", "union": "all attacks (union)"}
SIDES = {"": "File", "original.": "Original"}


def artefact(context: Context) -> Markup:
    """Size, speed, agreement and robust accuracy of an exported file and of its original model."""
    return fill_file(
        "artefact/section.html",
        context,
        models=[model for model in context.models if model.evaluation.artefact is not None],
        verdict=verdict,
        sizes=_sizes,
        speeds=_speeds,
        draw=partial(_draw, context),
        robust=_robust,
        labels=_labels,
        sentence=sentence,
        missing=missing_of(context, "artefact"),
    )


def compared(context: Context) -> list[tuple[str, list[Markup]]]:
    """Rows for the comparison of models; none if no model is an exported file."""
    if all(model.evaluation.artefact is None for model in context.models):
        return []
    return [
        ("Exported file, size in bytes", [_cell(model, "bytes", ",d") for model in context.models]),
        (
            "Exported file, median time for one image, ms",
            [_cell(model, "latency.0.p50", ".2f") for model in context.models],
        ),
        (
            "Exported file, accuracy under all attacks (union)",
            [_cell(model, "union", ".1%") for model in context.models],
        ),
    ]


def _cell(model: Model, name: str, spec: str) -> Markup:
    record = model.evaluation.artefact
    if record is None or (name == "union" and record.union is None) or (name[:7] == "latency" and not record.latency):
        return lacking("no exported file" if record is None else "not measured")
    return model.interval(f"artefact.{name}") if name == "union" else model.n(f"artefact.{name}", spec)


def _record(model: Model) -> Artefact:
    record = model.evaluation.artefact
    assert record is not None
    return record


def _sides(model: Model) -> dict[str, tuple[str, Side]]:
    """The file and, if there is one, the original, by title: the path in the evaluation, and the record."""
    record = _record(model)
    every = {"": record, "original.": record.original}
    return {SIDES[at]: (f"artefact.{at}", side) for at, side in every.items() if side is not None}


def _sizes(model: Model) -> Markup:
    rows: list[Row] = []
    for name, shown in {
        "bytes": "Size in bytes",
        "parameters": "Parameters",
        "macs": "Multiply-adds per image",
    }.items():
        row: dict[str, Any] = {"Quantity": shown}
        for title, (at, side) in _sides(model).items():
            row[title] = model.n(at + name, ",d") if getattr(side, name) else lacking("not known")
        if (original := _record(model).original) is not None:
            of_file, of_original = getattr(_record(model), name), getattr(original, name)
            known = of_file and of_original
            row["File / original"] = (
                derived(f"ratio of {name}", of_file / of_original, ".2f") if known else lacking("not known")
            )
        rows.append(row)
    return table(f"Size of {model.name}", rows, sortable=False)


def _speeds(model: Model) -> Markup:
    rows: list[Row] = []
    for i, one in enumerate(_record(model).latency):
        at = f"artefact.latency.{i}."
        row: dict[str, Any] = {"Batch size": model.n(at + "batch", "d")}
        for name, shown in (("", "File"), ("original_", "Original")):
            for part, percentile in (("p50", "median"), ("p99", "99th percentile")):
                if getattr(one, name + part) is not None:
                    row[f"{shown}, {percentile}, ms"] = model.n(at + name + part, ".2f")
        rows.append(row | {"Runs": model.n(at + "runs", "d")})
    return table(f"Time per batch of {model.name}", rows, sortable=False)


def _robust(model: Model) -> Markup:
    record, rows = _record(model), []
    for name, shown in SETS.items():
        if name == "white_box_once" and record.white_box_once is None:  # an evaluation of an earlier version
            continue
        row: dict[str, Any] = {"Measure": shown}
        for title, (at, side) in _sides(model).items():
            row[title] = lacking("no gradient") if getattr(side, name) is None else model.interval(at + name)
        differences = {"clean": (record.clean_difference, record.clean_ci95), "union": (record.difference, record.ci95)}
        value, ends = differences.get(name, (None, []))
        row["Difference, points"] = (
            Markup("") if value is None else _interval(f"difference, {shown}", value, ends[0], ends[1])
        )
        rows.append(row)
    for name, shown in (
        ("ece", "Calibration error (ECE) on clean images"),
        ("ece_adversarial", "Calibration error (ECE) under attack"),
    ):
        rows.append(
            {"Measure": shown}
            | {title: model.n(at + name, ".3f") for title, (at, _) in _sides(model).items()}
            | {"Difference, points": Markup("")}
        )
    return table(f"Accuracy of {model.name} and its original under the same attacks", rows, sortable=False)


def _interval(name: str, value: float, low: float, high: float) -> Markup:
    shown = points(name, value), points(f"{name}, low", low), points(f"{name}, high", high)
    return Markup('{} <span class="ci">[{}, {}]</span>').format(*shown)


def _draw(context: Context, model: Model) -> Markup:
    """A bar chart of the accuracies of the file and of the original, with intervals."""
    sides = _sides(model)
    names = {one.name: one.series for one in context.models}
    original = next((series for name, series in names.items() if name == _record(model).source), (model.series + 1) % 4)
    colours = [SERIES[model.series], SERIES[original]]
    title = f"Accuracy of {model.name} and its original"
    rows = [
        {"Images": shown, "Model": title_of} | model.shares(at + name)
        for name, shown in DRAWN.items()
        for title_of, (at, side) in sides.items()
        if getattr(side, name) is not None
    ]

    def paint(axes: Axes) -> None:
        for turn, (title_of, (_, side)) in enumerate(sides.items()):
            bars: list[tuple[float, Accuracy]] = [
                (place + 0.38 * (turn - 0.5), accuracy)
                for place, name in enumerate(DRAWN)
                if (accuracy := getattr(side, name)) is not None
            ]
            x = [place for place, _ in bars]
            axes.bar(x, [100 * one.accuracy for _, one in bars], 0.34, color=colours[turn], alpha=0.75, label=title_of)
            low, high = ([100 * one.ci95[end] for _, one in bars] for end in (0, 1))
            axes.vlines(x, low, high, color=INK, linewidth=1)
        axes.set_xticks(range(len(DRAWN)), list(DRAWN.values()))
        shares_upwards(axes)
        axes.legend(loc="upper right")

    caption = f"{title} on the same samples, with 95% intervals"
    return plot(f"artefact-{model.place}", title, paint, rows, caption=caption, size=(7.4, 2.8))


def _labels(model: Model) -> Markup:
    labels = _record(model).labels
    if labels is None:
        return Markup("")
    rows: list[Row] = [
        {
            "Class": name,
            "Only the original correct": derived("lost", labels.lost.get(name, 0), ",d"),
            "Only the file correct": derived("gained", labels.gained.get(name, 0), ",d"),
            "Both wrong, different predictions": derived("moved", labels.moved.get(name, 0), ",d"),
        }
        for name in sorted({*labels.lost, *labels.gained, *labels.moved})
    ]
    return table(f"Samples that {model.name} and its original predict differently, by class", rows, sortable=False)
