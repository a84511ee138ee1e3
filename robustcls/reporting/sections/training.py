"""How the model was trained, and whether training overfitted."""

from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from robustcls.reporting.context import Context
from robustcls.reporting.figures import INK, SERIES, draw
from robustcls.reporting.html import figure, fill_file, number, table
from robustcls.reporting.missing import reasons_of
from robustcls.results.learning import above_chance
from robustcls.results.overfitting import CATASTROPHIC, catastrophes, undone
from robustcls.results.records import Training

ORDER, TITLE = 150, "Training"

CURVES = {  # field: (name, colour, line style)
    "train_clean": ("train, clean", SERIES[0], ":"),
    "train_robust": ("train, under attack", SERIES[1], ":"),
    "val_clean": ("validation, clean", SERIES[0], "-"),
    "val_fgsm": ("validation, FGSM", SERIES[2], "--"),
    "val_robust": ("validation, under attack", SERIES[1], "-"),
}


def training(context: Context) -> Markup:
    """Curves of train and validation, the chosen epoch, and the two ways in which adversarial training overfits."""
    return fill_file(
        "training.html",
        context,
        parts=[_part(context, i) for i in range(len(context.evaluations))],
        absent=reasons_of(context, "training"),
        limit=CATASTROPHIC,
    )


def _part(context: Context, model: int) -> dict[str, object] | None:
    history = context.evaluations[model].training
    if history is None or not history.epochs:
        return None
    gone = undone(history.epochs)
    flagged = catastrophes(history.epochs)
    robust = [epoch.val_robust for epoch in history.epochs if epoch.val_robust is not None]
    return {
        "training": history,
        "epochs": len(history.epochs) - len(gone),
        "events": [said for epoch in history.epochs for said in (epoch.event, epoch.warning) if said],
        "learned": above_chance(robust, history.chance),
        "gap": max(robust) - robust[-1] if robust else None,
        "best": max(robust, default=None),
        "last": robust[-1] if robust else None,
        "flagged": None if flagged is None else [history.epochs[place].epoch for place in flagged if place not in gone],
        "drawn": _draw(context, model, history),
    }


def _draw(context: Context, model: int, history: Training) -> Markup:
    fields = [name for name in CURVES if any(getattr(epoch, name) is not None for epoch in history.epochs)]
    rows = [
        [
            number(context, model, f"training.epochs.{i}.epoch", "d"),
            *(number(context, model, f"training.epochs.{i}.{name}", ".1%") for name in fields),
            number(context, model, f"training.epochs.{i}.train_loss", ".4f"),
            number(context, model, f"training.epochs.{i}.lr", ".3g"),
            number(context, model, f"training.epochs.{i}.seconds", ",.1f"),
            number(context, model, f"training.epochs.{i}.images_per_second", ",.0f"),
        ]
        for i in range(len(history.epochs))
    ]
    heads = [
        "Epoch",
        *(CURVES[name][0].capitalize() for name in fields),
        "Train loss",
        "Learning rate",
        "Seconds",
        "Images a second",
    ]
    title = f"Accuracy while training {context.names[model]}"
    described = f"{len(history.epochs)} epochs; epoch {history.chosen_epoch} was chosen"
    svg = draw(f"training-{model}", title, described, partial(_paint, history, fields))
    data = table(f"Data: training of {context.names[model]}", heads, rows)
    return figure(f"training-{model}", svg, title, data)


def _paint(history: Training, fields: list[str], axes: Axes) -> None:
    for name in fields:
        label, colour, style = CURVES[name]
        known = [(e.epoch, 100 * getattr(e, name)) for e in history.epochs if getattr(e, name) is not None]
        marker = "o" if len(known) < 40 else ""
        axes.plot(*zip(*known, strict=True), style, marker=marker, markersize=3, color=colour, label=label)
    axes.axvline(history.chosen_epoch, color=INK, linewidth=1, linestyle=(0, (2, 2)))
    axes.annotate(
        f"chosen: epoch {history.chosen_epoch}",
        (history.chosen_epoch, 1),
        (4, 2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        fontsize=9,
        ha="left" if history.chosen_epoch < 0.8 * len(history.epochs) else "right",
    )
    axes.set_ylim(-3, 103)
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy in %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
