"""The section Calibration: whether the model's confidence agrees with its accuracy, on clean images and under attack."""

from collections.abc import Sequence
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.evaluation.measures.calibration.record import Bin, Reliability
from robustcls.reporting.context import FEW, Context, Model, sentence
from robustcls.reporting.figures import INK, SERIES, plot, shares_upwards
from robustcls.reporting.html import fill_file, lacking
from robustcls.reporting.missing import missing_of
from robustcls.results.statistics import wilson

IMAGES = {"clean": "clean images", "adversarial": "images under attack"}


def calibration(context: Context) -> Markup:
    """Expected calibration error and reliability diagrams, clean and adversarial, and confidence when wrong."""
    return fill_file(
        "calibration/section.html",
        context,
        models=[model for model in context.models if model.evaluation.calibration is not None],
        images=IMAGES,
        draw=_draw,
        sentence=sentence,
        few=FEW,
        missing=missing_of(context, "calibration"),
    )


def compared(context: Context) -> list[tuple[str, list[Markup]]]:
    """The expected calibration errors of the models."""
    return [
        (
            f"Calibration error (ECE), {images}",
            [
                model.n(f"calibration.{part}.ece", ".3f") if model.evaluation.calibration else lacking()
                for model in context.models
            ],
        )
        for part, images in IMAGES.items()
    ]


def _draw(model: Model, part: str) -> Markup:
    found: Reliability = getattr(model.evaluation.calibration, part)
    rows = []
    for i, one in enumerate(found.bins):
        at = f"calibration.{part}.bins.{i}"
        shares = {"Mean confidence": "confidence", "Accuracy": "accuracy"}
        row = model.cells(at, ".3f", {"Confidence above": "low", "Up to": "high"})
        row |= model.cells(at, ",d", {"Predictions": "n"})
        rows.append(row | (model.cells(at, ".1%", shares) if one.n else dict.fromkeys(shares, lacking("empty"))))
    name, title = f"calibration-{model.place}-{part}", f"Reliability of {model.name}, {IMAGES[part]}"
    grey = [i for i, one in enumerate(found.bins) if one.n < FEW]
    return plot(name, title, partial(_paint, found, SERIES[model.series]), rows, size=(4.1, 4.3), grey=grey)


def _paint(found: Reliability, colour: str, axes: Axes) -> None:
    counts = axes.inset_axes((0, 1.05, 1, 0.24))
    most = max((one.n for one in found.bins), default=0) or 1
    counts.bar(*_bars(found.bins, [one.n for one in found.bins]), color=INK, alpha=0.5)
    for few in (True, False):
        some = [(one, one.accuracy) for one in found.bins if one.accuracy is not None and (one.n < FEW) is few]
        bins, faint = [one for one, _ in some], 0.35 if few else 1.0
        ends = [wilson(round(share * one.n), one.n) for one, share in some]
        axes.bar(*_bars(bins, [100 * share for _, share in some]), color=colour, alpha=0.55 * faint)
        low, high = ([100 * end[i] for end in ends] for i in (0, 1))
        axes.vlines([50 * (one.low + one.high) for one in bins], low, high, color=INK, linewidth=1, alpha=faint)
    axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(0, 100)
    axes.set_xlabel("confidence in %")
    shares_upwards(axes)
    axes.set_ylim(0, 103)
    counts.set_xlim(0, 100)
    counts.set_ylim(0, 1.1 * most)
    counts.set_xticks([])
    counts.set_yticks([0, most], ["0", f"{most:,}"])
    counts.set_ylabel("n")


def _bars(bins: list[Bin], heights: Sequence[float]) -> tuple[list[float], Sequence[float], list[float]]:
    """The (middles, heights, widths) of bars with gaps between them; the x axis is confidence in %."""
    return [50 * (one.low + one.high) for one in bins], heights, [92 * (one.high - one.low) for one in bins]
