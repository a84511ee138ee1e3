"""The section Limits and reproduction: what was not tested, and how to reproduce the numbers."""

import json
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from robustcls.reporting.context import Context, Model
from robustcls.reporting.html import badge, fill_file, lines, piece, table
from robustcls.reporting.missing import ACTIVE_CHECKS, ONE_MODEL, PARTS, reasons_of, title_of

ORDER, TITLE = 160, "Limits and reproduction"


def limits(context: Context) -> Markup:
    """What was not tested; the command, configuration, seeds, versions and hashes; and downloads."""
    missing = [{"Status": badge("not_run"), "Section": part, "Reason": reason} for part, reason in _missing(context)]
    reduced = [
        {"Section": title_of(part), "Reason": context.of(model, reason)}
        for model in context.models
        for part, reason in model.evaluation.reduced.items()
    ]
    trainings = [(model, model.evaluation.training) for model in context.models]
    return fill_file(
        "limits.html",
        context,
        missing=table("What was not tested", missing, sortable=False),
        reduced=table("What was measured on fewer samples", reduced, sortable=False),
        configs=[_settings(one, "provenance.config", one.evaluation.provenance.config) for one in context.models],
        trainings=[_settings(model, "training.config", one.config if one else {}) for model, one in trainings],
    )


def _missing(context: Context) -> Iterator[tuple[str, str]]:
    """(section, reason) of everything that an evaluation lacks; models are named unless all of them lack it."""
    for part, (title, _, _) in PARTS.items():
        reasons = reasons_of(context, part)
        for reason in dict.fromkeys(reasons.values()):
            who = [context.names[model] for model, own in reasons.items() if own == reason]
            yield title, reason if len(who) == len(context.models) else reason + f" ({', '.join(who)})"
    for model in context.models:
        checks = model.evaluation.checks
        if checks and (left_out := model.evaluation.not_run.get("diagnostics")):
            yield ACTIVE_CHECKS, context.of(model, left_out)
        for check in checks:
            if check.status == "not_run":
                yield f"Self-check {check.id}", context.of(model, check.message)
    if not context.comparable:
        yield "Comparison", context.mismatch or ONE_MODEL


def _settings(model: Model, root: str, config: dict[str, Any]) -> Markup:
    label = "Training configuration" if root.startswith("training") else "Configuration"
    rows = []
    for path, key, value in _leaves(config, root, ""):
        counted = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        # `code` keeps the column left-aligned: values of different options are not compared by size.
        rows.append({"Option": key, "Value": piece("code", model.n(path, "") if counted else lines([text]), "value")})
    return table(f"{label} of {model.name}", rows)


def _leaves(value: dict[str, Any], path: str, prefix: str) -> Iterator[tuple[str, str, Any]]:
    for key, inner in value.items():
        at = f"{path}.{key.replace('.', chr(92) + '.')}"
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, at, f"{prefix}{key}.")
        else:
            yield at, prefix + key, inner
