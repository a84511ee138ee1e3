"""What each attack did, alone and in its turn."""

import json
from functools import partial

from markupsafe import Markup
from matplotlib.axes import Axes

from robustcls.reporting.context import Context, say_who_was_met
from robustcls.reporting.figures import SERIES, draw, shorten
from robustcls.reporting.html import derived, figure, fill_file, heat_table, interval, lines, model_tag, number, table
from robustcls.results.records import Attack, Evaluation
from robustcls.results.statistics import wilson

ORDER, TITLE = 50, "Attacks"


def attacks(context: Context) -> Markup:
    """Accuracy under each attack, kills, cost, options and overlap."""
    parts = []
    for model, evaluation in enumerate(context.evaluations):
        held_any = bool(evaluation.attacks)
        parts.append(
            {
                "tag": model_tag(context, model),
                "attacks": _results(context, model) if held_any else None,
                "cost": _cost(context, model) if held_any else None,
                "overlap": _overlap(context, model),
            }
        )
    every = [attack for evaluation in context.evaluations for attack in evaluation.attacks]
    return fill_file("attacks.html", context, parts=parts, drawn=_draw(context), met=say_who_was_met(every))


def _results(context: Context, model: int) -> Markup:
    rows = []
    kills = 0
    only = Markup('<span class="none">met survivors only</span>')
    for i, attack in enumerate(context.evaluations[model].attacks):
        kills += attack.broken
        at = f"attacks.{i}"
        rows.append(
            [
                derived("order", i + 1, "d"),
                attack.name,
                number(context, model, f"{at}.attacked", ",d"),
                number(context, model, f"{at}.broken", ",d"),
                derived("cumulative kills", kills, ",d"),
                number(context, model, f"{at}.robust_accuracy", ".1%"),
                interval(context, model, f"{at}.alone") if attack.alone is not None else only,
                number(context, model, f"{at}.unique", ",d") if attack.unique is not None else only,
                Markup('<span class="error">{}</span>').format(attack.error) if attack.error else "none",
            ]
        )
    heads = [
        "Order",
        "Attack",
        "Met",
        "Broken",
        "Broken so far",
        "Accuracy after",
        "Accuracy alone",
        "Unique kills",
        "Error",
    ]
    return table(f"Attacks on {context.names[model]}", heads, rows)


NONE_BROKEN = Markup('<span class="none">none broken</span>')


def _cost(context: Context, model: int) -> Markup:
    rows = []
    for i, attack in enumerate(context.evaluations[model].attacks):
        at = f"attacks.{i}"
        met = attack.attacked if attack.alone is None else context.evaluations[model].clean.correct
        rows.append(
            [
                attack.name,
                lines(f"{key} = {json.dumps(value)}" for key, value in attack.options.items()) or "defaults",
                number(context, model, f"{at}.median_distance", ".4f") if attack.broken else NONE_BROKEN,
                derived("forward passes a sample", attack.forwards / met if met else 0.0, ",.1f"),
                number(context, model, f"{at}.forwards", ",d"),
                number(context, model, f"{at}.backwards", ",d"),
                number(context, model, f"{at}.seconds", ",.1f"),
            ]
        )
    heads = [
        "Attack",
        "Options",
        "Median distance",
        "Forwards a sample",
        "Images forward",
        "Images backward",
        "Seconds",
    ]
    return table(f"Options and cost of the attacks on {context.names[model]}", heads, rows)


def _overlap(context: Context, model: int) -> Markup | None:
    evaluation = context.evaluations[model]
    known = [set(sample.fooled_by) for sample in evaluation.samples if sample.fooled_by is not None]
    if not known or not evaluation.attacks:
        return None
    names = list(dict.fromkeys(attack.name for attack in evaluation.attacks))
    counts = [[sum(row in one and column in one for one in known) for column in names] for row in names]
    most = max(map(max, counts)) or 1
    tints = [[count / most for count in row] for row in counts]
    return heat_table(f"Overlap of the attacks on {context.names[model]}", "overlap", "Attack", names, counts, tints)


def _draw(context: Context) -> Markup:
    if not any(evaluation.attacks for evaluation in context.evaluations):
        return Markup("")
    rows = [
        [
            model_tag(context, model),
            derived("step", step, "d"),
            name,
            derived("accuracy after", share, ".1%"),
            derived("low", low, ".1%"),
            derived("high", high, ".1%"),
        ]
        for model, evaluation in enumerate(context.evaluations)
        for step, (name, share, low, high) in enumerate(_cascade(evaluation))
    ]
    title = "Accuracy left after each attack"
    described = "; ".join(
        f"{context.names[model]}: " + ", ".join(f"{name} {share:.1%}" for name, share, _, _ in _cascade(evaluation))
        for model, evaluation in enumerate(context.evaluations)
    )
    svg = draw("attacks", title, described, partial(_paint, context))
    data = table(
        "Data: accuracy after each attack", ["Model", "Step", "After", "Accuracy", "95% low", "95% high"], rows
    )
    return figure("attacks", svg, title + " with 95% intervals; diamonds: the attack alone", data)


def _cascade(evaluation: Evaluation) -> list[tuple[str, float, float, float]]:
    """(name, accuracy, low, high) on clean images and after each attack."""
    total = evaluation.clean.total
    steps = [("clean", evaluation.clean.accuracy, evaluation.clean.ci95[0], evaluation.clean.ci95[1])]
    for attack in evaluation.attacks:
        low, high = wilson(min(total, round(attack.robust_accuracy * total)), total)
        steps.append((attack.name, attack.robust_accuracy, low, high))
    return steps


def _paint(context: Context, axes: Axes) -> None:
    longest: list[Attack] = []
    for model, evaluation in enumerate(context.evaluations):
        steps = _cascade(evaluation)
        colour = SERIES[model % 4]
        x = list(range(len(steps)))
        y = [100 * share for _, share, _, _ in steps]
        ends = [[100 * (s - low) for _, s, low, _ in steps], [100 * (high - s) for _, s, _, high in steps]]
        axes.errorbar(
            x, y, yerr=ends, marker="os^v"[model % 4], color=colour, capsize=3, label=shorten(context.names[model], 40)
        )
        alone = [(i, 100 * a.alone.accuracy) for i, a in enumerate(evaluation.attacks, 1) if a.alone is not None]
        if alone:
            axes.plot(*zip(*alone, strict=True), "D", color=colour, markerfacecolor="none", linestyle="none")
        longest = max(longest, evaluation.attacks, key=len)
    names = ["clean", *(shorten(attack.name, 18) for attack in longest)]
    axes.set_xticks(range(len(names)), names, rotation=30 if len(names) > 7 else 0)
    axes.set_xlim(-0.4, len(names) - 0.6)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("accuracy in %")
    axes.grid(axis="y")
    if context.several:
        axes.legend()
