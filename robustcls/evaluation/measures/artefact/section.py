"""What runs: the exported file beside its original."""

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
    "clean": "Clean images", "white_box_once": "White box", "white_box": "White box, again with another seed",
    "transfer": "Transfer from the other",
    "square": "Both, then Square", "union": "Union of all",
}  # fmt: skip
DRAWN = {"clean": "clean", "white_box": "white box", "union": "union of all"}
SIDES = {"": "File", "original.": "Original"}


def artefact(context: Context) -> Markup:
    """Size, speed, agreement and robust accuracy of an exported file and of the model that it was made of."""
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
    """Rows of the comparison of models, where one is an exported file."""
    if all(model.evaluation.artefact is None for model in context.models):
        return []
    return [
        ("Exported file, bytes", [_cell(model, "bytes", ",d") for model in context.models]),
        ("Exported file, median ms for an image", [_cell(model, "latency.0.p50", ".2f") for model in context.models]),
        (
            "Exported file, robust under the union of attacks",
            [_cell(model, "union", ".1%") for model in context.models],
        ),
    ]


def _cell(model: Model, name: str, spec: str) -> Markup:
    found = model.evaluation.artefact
    if found is None or (name == "union" and found.union is None) or (name[:7] == "latency" and not found.latency):
        return lacking("no exported file" if found is None else "not measured")
    return model.interval(f"artefact.{name}") if name == "union" else model.n(f"artefact.{name}", spec)


def _record(model: Model) -> Artefact:
    found = model.evaluation.artefact
    assert found is not None
    return found


def _sides(model: Model) -> dict[str, tuple[str, Side]]:
    """The path of each of the two models and its record, by its title."""
    found = _record(model)
    every = {"": found, "original.": found.original}
    return {SIDES[at]: (f"artefact.{at}", side) for at, side in every.items() if side is not None}


def _sizes(model: Model) -> Markup:
    rows: list[Row] = []
    for name, shown in {"bytes": "Bytes", "parameters": "Parameters", "macs": "Multiply-adds per image"}.items():
        row: dict[str, Any] = {"Quantity": shown}
        for title, (at, side) in _sides(model).items():
            row[title] = model.n(at + name, ",d") if getattr(side, name) else lacking("not known")
        if (original := _record(model).original) is not None:
            ours, theirs = getattr(_record(model), name), getattr(original, name)
            row["Share"] = (
                derived(f"share of {name}", ours / theirs, ".2f") if ours and theirs else lacking("not known")
            )
        rows.append(row)
    return table(f"Size of {model.name}", rows, sortable=False)


def _speeds(model: Model) -> Markup:
    rows: list[Row] = []
    for i, one in enumerate(_record(model).latency):
        at = f"artefact.latency.{i}."
        row: dict[str, Any] = {"Batch": model.n(at + "batch", "d")}
        for name, shown in (("", "File"), ("original_", "Original")):
            for part, percentile in (("p50", "median"), ("p99", "99th percentile")):
                if getattr(one, name + part) is not None:
                    row[f"{shown}, {percentile}, ms"] = model.n(at + name + part, ".2f")
        rows.append(row | {"Runs": model.n(at + "runs", "d")})
    return table(f"Time that a batch takes {model.name}", rows, sortable=False)


def _robust(model: Model) -> Markup:
    found, rows = _record(model), []
    for name, shown in SETS.items():
        if name == "white_box_once" and found.white_box_once is None:  # of an earlier version
            continue
        row: dict[str, Any] = {"Correct after": shown}
        for title, (at, side) in _sides(model).items():
            row[title] = lacking("no gradient") if getattr(side, name) is None else model.interval(at + name)
        differences = {"clean": (found.clean_difference, found.clean_ci95), "union": (found.difference, found.ci95)}
        value, ends = differences.get(name, (None, []))
        row["Difference, points"] = (
            Markup("") if value is None else _interval(f"difference, {shown}", value, ends[0], ends[1])
        )
        rows.append(row)
    for name, shown in (("ece", "Calibration error, clean"), ("ece_adversarial", "Calibration error under attack")):
        rows.append(
            {"Correct after": shown}
            | {title: model.n(at + name, ".3f") for title, (at, _) in _sides(model).items()}
            | {"Difference, points": Markup("")}
        )
    return table(f"Accuracy of {model.name} and its original under the same attacks", rows, sortable=False)


def _interval(name: str, value: float, low: float, high: float) -> Markup:
    shown = points(name, value), points(f"{name}, low", low), points(f"{name}, high", high)
    return Markup('{} <span class="ci">[{}, {}]</span>').format(*shown)


def _draw(context: Context, model: Model) -> Markup:
    """Bars of both models with their intervals, each in its colour."""
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
                (place + 0.38 * (turn - 0.5), found)
                for place, name in enumerate(DRAWN)
                if (found := getattr(side, name)) is not None
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
    found = _record(model).labels
    if found is None:
        return Markup("")
    rows: list[Row] = [
        {
            "Class": name,
            "Right before, wrong in the file": derived("lost", found.lost.get(name, 0), ",d"),
            "Wrong before, right in the file": derived("gained", found.gained.get(name, 0), ",d"),
            "Wrong in both, another label": derived("moved", found.moved.get(name, 0), ",d"),
        }
        for name in sorted({*found.lost, *found.gained, *found.moved})
    ]
    return table(f"Labels that {model.name} changed, by class", rows, sortable=False)
