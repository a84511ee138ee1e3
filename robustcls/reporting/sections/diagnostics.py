"""Whether the numbers can be believed: the evaluation's checks of itself."""

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import badge, fill_file, model_tag, number, table

ORDER, TITLE = 100, "Self-checks"

# What a full evaluation checks, with the reason that is shown where it did not.
EXPECTED = {
    "random_output": "two passes over the same images were not compared",
    "softmax_output": "whether the outputs are probabilities was not looked at",
    "zero_gradients": "the share of samples without an input gradient was not measured",
    "black_box_wins": "no check compared attacks without gradients with gradient attacks",
    "device": "whether model and images share a device was not looked at",
    "inference_optimisation": "whether the model optimises while it predicts was not looked at",
    "single_step_beats_iterative": "no check compared a single-step attack with the iterative ones",
    "doubled_steps": "the attacks were not repeated with twice the steps",
    "doubled_restarts": "the attacks were not repeated with twice the restarts",
    "eps_monotone": "only one eps was attacked",
    "large_eps": "no eps was attacked at which every model must fall",
    "eps_zero": "the attacks were not run with eps = 0",
    "transfer": "no adversarial examples of another model were tried",
    "noise_baseline": "no check compared the attacks with random noise of the same norm",
    "attack_self_test": "the attacks were not tried on an undefended model",
}


def diagnostics(context: Context) -> Markup:
    """Each check with what was measured, its threshold, its status and what it means; then those not run."""
    parts = []
    for model, evaluation in enumerate(context.evaluations):
        name = context.names[model]
        rows = [
            [
                badge(check.status),
                Markup("<code>{}</code>").format(check.id),
                number(context, model, f"checks.{i}.measured", ".4g"),
                number(context, model, f"checks.{i}.threshold", ".4g"),
                check.message,
            ]
            for i, check in enumerate(evaluation.checks)
        ]
        missing = {key: why for key, why in EXPECTED.items() if key not in {check.id for check in evaluation.checks}}
        listed = [[badge("not_run"), Markup("<code>{}</code>").format(key), why] for key, why in missing.items()]
        parts.append(
            {
                "tag": model_tag(context, model),
                "none": not rows,
                "table": table(f"Checks of {name}", ["Status", "Check", "Measured", "Threshold", "What it means"], rows)
                if rows
                else None,
                "missing": table(f"Checks not run on {name}", ["Status", "Check", "Reason"], listed),
                "missing_count": len(missing),
            }
        )
    return fill_file("diagnostics.html", context, parts=parts)
