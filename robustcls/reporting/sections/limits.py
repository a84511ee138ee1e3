"""What was not tested, and what it takes to get the same numbers again."""

import json
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import badge, fill_file, lines, number, table
from robustcls.reporting.sections import sanity, stability

ORDER, TITLE = 160, "Limits and reproduction"

# Sections of a full report that this version does not measure, with the reason that the reader is given.
NOT_RUN = {
    "Calibration": "probabilities are kept for the gallery only, so calibration errors were not computed",
    "Corruptions": "only adversarial perturbations were applied, no natural corruptions",
}


def limits(context: Context) -> Markup:
    """What was not tested; command, configuration, seeds, versions and hashes; downloads."""
    missing = NOT_RUN | _missing_here(context)
    rows = [[badge("not_run"), name, reason] for name, reason in missing.items()]
    indices = range(len(context.evaluations))
    return fill_file(
        "limits.html",
        context,
        missing=table("What was not tested", ["Status", "Section", "Reason"], rows, sortable=False),
        configs=[_settings(context, m, "provenance.config", "Configuration") for m in indices],
        trainings=[_settings(context, m, "training.config", "Training configuration") for m in indices],
    )


def _missing_here(context: Context) -> dict[str, str]:
    """Parts that exist in this version and that these evaluations do not hold."""
    some = context.evaluations
    curves = any(one.curve for one in some)
    distances = any(attack.censored is not None for one in some for attack in one.attacks)
    explained = all(one.explanations and one.explanations.methods for one in some)
    absent = {
        "Security curves": "measured, and kept in the evaluation: this version draws none"
        if curves
        else "accuracy was measured at one eps; give several with --eps-grid",
        "Minimum perturbation": "measured, and kept in the evaluation: this version shows none"
        if distances
        else "no minimum-norm attack was run, such as --attack fmn",
        "Comparison": "one model was handed in" if not context.several else context.mismatch,
        "Attacks": "no attack was run" if not all(one.attacks for one in some) else "",
        "Accuracy under each attack alone": "the attacks met survivors only"
        if any(attack.alone is None for one in some for attack in one.attacks)
        else "",
        "Gallery": "no images were kept" if not all(one.gallery and one.gallery.examples for one in some) else "",
        "Attribution stability": "" if explained else stability.why_absent(context, stability.ABSENT),
        "Attribution sanity": "" if explained else stability.why_absent(context, sanity.ABSENT),
        "Training": "no training history was handed in" if not all(one.training for one in some) else "",
        "Self-checks": "no check was run" if not all(one.checks for one in some) else "",
    }
    everyone = "" if not context.several else " (not for every model)"
    return {
        name: reason + (everyone if name not in ("Comparison",) else "") for name, reason in absent.items() if reason
    }


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
