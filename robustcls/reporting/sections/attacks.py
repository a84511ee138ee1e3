"""The section Attacks: the result of each attack, alone and in the cascade."""

import json

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import Context, Model, say_who_was_attacked
from robustcls.reporting.figures import MARKERS, SERIES, plot, shares_upwards, shorten
from robustcls.reporting.html import derived, fill_file, heat_table, lines, share
from robustcls.results.evaluation import say_bounds
from robustcls.results.records import Evaluation
from robustcls.results.statistics import wilson

ORDER, TITLE = 50, "Attacks"


def attacks(context: Context) -> Markup:
    """Accuracy under each attack, the samples it broke, its cost and options, and the overlap of the attacks."""
    every = [attack for evaluation in context.evaluations for attack in evaluation.attacks]
    return fill_file(
        "attacks.html",
        context,
        attacked=say_who_was_attacked(every),
        drawn=_draw(context) if every else "",
        bounds=say_bounds,
        overlaps=[_overlap(model) for model in context.models],
        in_words=lambda options: lines(f"{key} = {json.dumps(value)}" for key, value in options.items()) or "defaults",
    )


def _overlap(model: Model) -> Markup | None:
    known = [set(sample.fooled_by) for sample in model.evaluation.samples if sample.fooled_by is not None]
    if not known or not model.evaluation.attacks:
        return None
    names = list(dict.fromkeys(attack.name for attack in model.evaluation.attacks))
    counts = [[sum(row in one and column in one for one in known) for column in names] for row in names]
    most = [max(map(max, counts))] * len(names)
    return heat_table(f"Overlap of the attacks on {model.name}", "overlap", "Attack", names, counts, most)


def _draw(context: Context) -> Markup:
    steps = [(model, _cascade(model.evaluation)) for model in context.models]
    rows = [
        {
            "Model": model.tag,
            "Step": derived("step", step, "d"),
            "After": name,
            "Accuracy": share("accuracy after", left),
            "95% low": share("low", low),
            "95% high": share("high", high),
        }
        for model, some in steps
        for step, (name, left, low, high) in enumerate(some)
    ]
    title = "Accuracy left after each attack"

    def paint(axes: Axes) -> None:
        for model, some in steps:
            colour, marker = SERIES[model.series], MARKERS[model.series]
            ends = [[100 * (s - low) for _, s, low, _ in some], [100 * (high - s) for _, s, _, high in some]]
            x, y = range(len(some)), [100 * left for _, left, _, _ in some]
            axes.errorbar(x, y, yerr=ends, marker=marker, color=colour, capsize=3, label=shorten(model.name, 40))
            attacks = enumerate(model.evaluation.attacks, 1)
            alone = [(i, 100 * attack.alone.accuracy) for i, attack in attacks if attack.alone is not None]
            if alone:
                axes.plot(*zip(*alone, strict=True), "D", color=colour, markerfacecolor="none", linestyle="none")
        names = [shorten(name, 18) for name, *_ in max((some for _, some in steps), key=len)]
        axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 7 else 0)
        axes.set_xlim(-0.4, len(names) - 0.6)
        shares_upwards(axes)
        if context.several:
            axes.legend()

    return plot("attacks", title, paint, rows, caption=f"{title} with 95% intervals; diamonds: the attack alone")


def _cascade(evaluation: Evaluation) -> list[tuple[str, float, float, float]]:
    """(name, accuracy, low, high) on the clean images and after each attack; low and high are the 95% interval."""
    total = evaluation.clean.total
    steps = [("clean", evaluation.clean.accuracy, evaluation.clean.ci95[0], evaluation.clean.ci95[1])]
    for attack in evaluation.attacks:
        low, high = wilson(min(total, round(attack.robust_accuracy * total)), total)
        steps.append((attack.name, attack.robust_accuracy, low, high))
    return steps
