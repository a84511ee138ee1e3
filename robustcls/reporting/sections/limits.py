"""What was not tested, and what it takes to get the same numbers again."""

import json
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import badge, fill_file, lines, number, table
from robustcls.reporting.missing import ACTIVE_CHECKS, ONE_MODEL, PARTS, reasons_of

ORDER, TITLE = 160, "Limits and reproduction"


def limits(context: Context) -> Markup:
    """What was not tested; command, configuration, seeds, versions and hashes; downloads."""
    rows = [[badge("not_run"), title, reason] for title, reason in _missing(context)]
    fewer = [[title, reason] for title, reason in _reduced(context)]
    indices = range(len(context.evaluations))
    return fill_file(
        "limits.html",
        context,
        missing=table("What was not tested", ["Status", "Section", "Reason"], rows, sortable=False) if rows else None,
        reduced=table("What was measured on fewer samples", ["Section", "Reason"], fewer, sortable=False)
        if fewer
        else None,
        configs=[_settings(context, m, "provenance.config", "Configuration") for m in indices],
        trainings=[_settings(context, m, "training.config", "Training configuration") for m in indices],
    )


def _missing(context: Context) -> Iterator[tuple[str, str]]:
    """(section, reason) of all that some evaluation lacks; the models are named where not every one does."""
    for part, (title, _, _) in PARTS.items():
        reasons = reasons_of(context, part)
        for reason in dict.fromkeys(reasons.values()):
            who = [context.names[model] for model, own in reasons.items() if own == reason]
            everyone = len(who) == len(context.evaluations)
            yield title, reason if everyone else reason + f" ({', '.join(who)})"
    for model, evaluation in enumerate(context.evaluations):
        left_out = evaluation.not_run.get("diagnostics") if evaluation.checks else None
        if left_out:
            named = f"{left_out} ({context.names[model]})" if context.several else left_out
            yield ACTIVE_CHECKS, named
        for check in evaluation.checks:
            if check.status == "not_run":
                named = f"{check.message} ({context.names[model]})" if context.several else check.message
                yield f"Self-check {check.id}", named
    if not context.comparable:
        yield "Comparison", context.mismatch or ONE_MODEL


def _reduced(context: Context) -> Iterator[tuple[str, str]]:
    """(section, reason) of all that a time budget had measured on fewer samples."""
    for model, evaluation in enumerate(context.evaluations):
        for part, reason in evaluation.reduced.items():
            title = PARTS[part][0] if part in PARTS else part.replace("_", " ").capitalize()
            yield title, f"{reason} ({context.names[model]})" if context.several else reason


def _settings(context: Context, model: int, root: str, label: str) -> Markup | None:
    evaluation = context.evaluations[model]
    if root.startswith("training") and evaluation.training is None:
        return None
    config = (
        evaluation.training.config
        if root.startswith("training") and evaluation.training
        else evaluation.provenance.config
    )
    rows = []
    for path, key, value in _leaves(config, root, ""):
        counted = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # Left aligned: a configuration is read by name, not compared by size.
        shown = number(context, model, path, "") if counted else lines([text])
        rows.append([key, Markup('<code class="value">{}</code>').format(shown)])
    return table(f"{label} of {context.names[model]}", ["Option", "Value"], rows) if rows else None


def _leaves(value: dict[str, Any], path: str, prefix: str) -> Iterator[tuple[str, str, Any]]:
    for key, inner in value.items():
        at = f"{path}.{key.replace('.', chr(92) + '.')}"
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, at, f"{prefix}{key}.")
        else:
            yield at, prefix + key, inner
