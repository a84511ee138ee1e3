"""Whether the model's confidence can be believed, on clean images and under attack."""

from collections.abc import Sequence
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.evaluation.measures.calibration.record import Bin, Reliability
from robustcls.reporting.context import Context
from robustcls.reporting.figures import INK, SERIES, draw
from robustcls.reporting.html import derived, figure, fill_file, model_tag, number, points, table
from robustcls.reporting.missing import missing_of
from robustcls.reporting.sections.stability import sentence, show_spread
from robustcls.results.statistics import wilson

ORDER, TITLE = 80, "Calibration"

FEW = 30  # predictions, below which a bin's accuracy says little
IMAGES = {"clean": "clean images", "adversarial": "images under attack"}


def calibration(context: Context) -> Markup:
    """Expected calibration error and reliability diagrams, clean and adversarial, and confidence when wrong."""
    parts = [_part(context, model) for model in range(len(context.evaluations))]
    rows = [_row(context, m, part) for m, held in enumerate(parts) if held for part in IMAGES]
    heads = [
        "Model",
        "Images",
        "n",
        "Accuracy",
        "Mean confidence",
        "Gap, points",
        "ECE",
        "Bins",
    ]
    shown = ["Model", "Images", "When right", "When wrong"]
    levels = [_confidence(context, m, part) for m, held in enumerate(parts) if held for part in IMAGES]
    return fill_file(
        "calibration.html",
        context,
        parts=parts,
        errors=table("Calibration errors", heads, rows, sortable=False) if rows else None,
        levels=table("Confidence when right and when wrong", shown, levels, sortable=False) if levels else None,
        few=FEW,
        missing=missing_of(context, "calibration"),
    )


def _part(context: Context, model: int) -> dict[str, object] | None:
    found = context.evaluations[model].calibration
    if found is None:
        return None
    return {
        "rule": sentence(found.rule),
        "drawn": [_draw(context, model, part, getattr(found, part)) for part in IMAGES],
    }


def _row(context: Context, model: int, part: str) -> list[Markup | str]:
    at = f"calibration.{part}"
    found: Reliability = getattr(context.evaluations[model].calibration, part)
    return [
        model_tag(context, model),
        IMAGES[part],
        number(context, model, f"{at}.n", ",d"),
        number(context, model, f"{at}.accuracy", ".1%"),
        number(context, model, f"{at}.confidence", ".1%"),
        points("overconfidence", found.confidence - found.accuracy),
        number(context, model, f"{at}.ece", ".3f"),
        derived("bins", len(found.bins), "d"),
    ]


def _confidence(context: Context, model: int, part: str) -> list[Markup | str]:
    spreads = (
        show_spread(context, model, f"calibration.{part}.{name}", ".1%") for name in ("when_right", "when_wrong")
    )
    return [model_tag(context, model), IMAGES[part], *spreads]


def _draw(context: Context, model: int, part: str, found: Reliability) -> Markup:
    name, whole = f"calibration-{model}-{part}", f"{context.names[model]}, {IMAGES[part]}"
    none = Markup('<span class="none">empty</span>')
    rows: list[list[Markup | str]] = []
    for i, one in enumerate(found.bins):
        at = f"calibration.{part}.bins.{i}"
        rows.append(
            [
                number(context, model, f"{at}.low", ".3f"),
                number(context, model, f"{at}.high", ".3f"),
                number(context, model, f"{at}.n", ",d"),
                *(
                    none if getattr(one, key) is None else number(context, model, f"{at}.{key}", ".1%")
                    for key in ("confidence", "accuracy")
                ),
            ]
        )
    described = ", ".join(
        f"confidence {one.confidence:.0%}, accuracy {one.accuracy:.0%}, n = {one.n}"
        for one in found.bins
        if one.confidence is not None and one.accuracy is not None
    )
    title = f"Reliability of {whole}"
    svg = draw(name, title, described, partial(_paint, found, SERIES[model % 4]), (4.1, 4.3))
    grey = [i for i, one in enumerate(found.bins) if one.n < FEW]
    heads = ["Confidence above", "Up to", "Predictions", "Mean confidence", "Accuracy"]
    return figure(name, svg, title, table(f"Data: reliability of {whole}", heads, rows, grey=grey))


def _paint(found: Reliability, colour: str, axes: Axes) -> None:
    counts = axes.inset_axes((0, 1.05, 1, 0.24))
    most = max((one.n for one in found.bins), default=0) or 1
    counts.bar(*_bars(found.bins, [one.n for one in found.bins]), color=INK, alpha=0.5)
    for few in (True, False):
        some = [(one, one.accuracy) for one in found.bins if one.accuracy is not None and (one.n < FEW) is few]
        bins, faint = [one for one, _ in some], 0.35 if few else 1.0
        ends = [wilson(round(share * one.n), one.n) for one, share in some]
        axes.bar(*_bars(bins, [100 * share for _, share in some]), color=colour, alpha=0.55 * faint)
        axes.vlines(
            [50 * (one.low + one.high) for one in bins], [100 * low for low, _ in ends], [100 * high for _, high in ends],
            color=INK, linewidth=1, alpha=faint,
        )  # fmt: skip
    axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    axes.set_xlabel("confidence in %")
    axes.set_ylabel("accuracy in %")
    axes.grid(axis="y")
    counts.set_xlim(0, 100)
    counts.set_ylim(0, 1.1 * most)
    counts.set_xticks([])
    counts.set_yticks([0, most], ["0", f"{most:,}"])
    counts.set_ylabel("n")


def _bars(bins: list[Bin], heights: Sequence[float]) -> tuple[list[float], Sequence[float], list[float]]:
    """(middles, heights, widths) with a gap between neighbours; confidence in %."""
    return [50 * (one.low + one.high) for one in bins], heights, [92 * (one.high - one.low) for one in bins]
