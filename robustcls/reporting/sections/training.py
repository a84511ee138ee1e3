"""The section Training: how the model was trained, and whether training overfitted."""

from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robustcls.reporting.context import Context, Model
from robustcls.reporting.figures import DOTTED, INK, SERIES, above, plot, shares_upwards
from robustcls.reporting.html import fill_file
from robustcls.reporting.missing import reasons_of
from robustcls.results.learning import above_chance
from robustcls.results.overfitting import CATASTROPHIC, REMEDY, catastrophes, robust_overfitting, shortfall, undone
from robustcls.results.records import Training

ORDER, TITLE = 150, "Training"

CURVES = {  # field of an epoch: (name, colour, line style)
    "train_clean": ("train, clean", SERIES[0], ":"),
    "train_robust": ("train, under attack", SERIES[1], ":"),
    "val_clean": ("validation, clean", SERIES[0], "-"),
    "val_fgsm": ("validation, FGSM", SERIES[2], "--"),
    "val_robust": ("validation, under attack", SERIES[1], "-"),
}


def training(context: Context) -> Markup:
    """Training and validation curves, the chosen epoch, and whether robust or catastrophic overfitting occurred."""
    return fill_file(
        "training.html",
        context,
        parts=[_part(model) for model in context.models],
        absent=reasons_of(context, "training"),
        limit=CATASTROPHIC,
    )


def _part(model: Model) -> dict[str, object] | None:
    history = model.evaluation.training
    if history is None or not history.epochs:
        return None
    gone = undone(history.epochs)
    flagged = catastrophes(history.epochs)
    robust = [epoch.val_robust for epoch in history.epochs if epoch.val_robust is not None]
    return {
        "training": history,
        "epochs": len(history.epochs) - len(gone),
        "events": [text for epoch in history.epochs for text in (epoch.event, epoch.warning) if text],
        "learned": above_chance(robust, history.chance),
        "gap": max(robust) - robust[-1] if robust else None,
        "over_validation": shortfall(history.epochs)[1],
        "remedy": REMEDY if robust_overfitting(history.epochs, history.chance) else "",
        "best": max(robust, default=None),
        "last": robust[-1] if robust else None,
        "flagged": None if flagged is None else [history.epochs[place].epoch for place in flagged if place not in gone],
        "drawn": _draw(model, history),
    }


def _draw(model: Model, history: Training) -> Markup:
    fields = [name for name in CURVES if any(getattr(epoch, name) is not None for epoch in history.epochs)]
    heads = {label[0].upper() + label[1:]: name for name in fields for label in CURVES[name][:1]}
    rows = [
        model.cells(f"training.epochs.{i}", "d", {"Epoch": "epoch"})
        | model.cells(f"training.epochs.{i}", ".1%", heads)
        | model.cells(f"training.epochs.{i}", ".4f", {"Train loss": "train_loss"})
        | model.cells(f"training.epochs.{i}", ".3g", {"Learning rate": "lr"})
        | model.cells(f"training.epochs.{i}", ",.1f", {"Seconds": "seconds"})
        | model.cells(f"training.epochs.{i}", ",.0f", {"Images per second": "images_per_second"})
        for i in range(len(history.epochs))
    ]
    title = f"Accuracy while training {model.name}"
    return plot(f"training-{model.place}", title, partial(_paint, history, fields), rows)


def _paint(history: Training, fields: list[str], axes: Axes) -> None:
    for name in fields:
        label, colour, style = CURVES[name]
        known = [(e.epoch, 100 * getattr(e, name)) for e in history.epochs if getattr(e, name) is not None]
        marker = "o" if len(known) < 40 else ""
        axes.plot(*zip(*known, strict=True), style, marker=marker, markersize=3, color=colour, label=label)
    chosen = history.chosen_epoch
    axes.axvline(chosen, color=INK, linewidth=1, linestyle=DOTTED)
    side = "left" if chosen < 0.8 * len(history.epochs) else "right"
    above(axes, f"chosen: epoch {chosen}", chosen, (4, 2), ha=side)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    shares_upwards(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
