"""Whether the numbers can be believed: the evaluation's checks of itself."""

from typing import NamedTuple

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import badge, fill_file, lines, model_tag, number, table

ORDER, TITLE = 100, "Self-checks"


class Described(NamedTuple):
    """What a check looks for, and the reason that is shown where it was not run."""

    looks_for: str
    missing: str


# What a full evaluation checks.
EXPECTED = {
    "random_output": Described(
        "Outputs that change from one pass to the next, or with the other images of the batch.",
        "two passes over the same images were not compared",
    ),
    "softmax_output": Described(
        "Probabilities in place of logits, which make gradients vanish.",
        "whether the outputs are probabilities was not looked at",
    ),
    "normalised_twice": Described(
        "A network that normalises its input behind a normalisation, which costs accuracy.",
        "whether the network normalises once more was not looked at",
    ),
    "zero_gradients": Described(
        "Samples whose loss has no gradient, so that gradient attacks stand still.",
        "the share of samples without an input gradient was not measured",
    ),
    "finite_output": Described(
        "Outputs that are not numbers, which count as wrong answers.",
        "whether the outputs under attack are numbers was not looked at",
    ),
    "finite_gradients": Described(
        "Input gradients that are not finite, along which an attack cannot go.",
        "whether the input gradients are finite was not looked at",
    ),
    "finite_attempts": Described(
        "Attempts of an attack that are no images, and so break nothing.",
        "whether the attempts of the attacks are finite was not looked at",
    ),
    "device": Described(
        "Model and images on different devices.",
        "whether model and images share a device was not looked at",
    ),
    "black_box_wins": Described(
        "Attacks without gradients that break what gradient attacks left.",
        "no check compared attacks without gradients with gradient attacks",
    ),
    "more_steps": Described(
        "Survivors that fall to many more gradient steps: the attacks had not converged.",
        "no check attacked the survivors with more steps",
    ),
    "inference_optimisation": Described(
        "A model that optimises while it predicts, or keeps what it saw.",
        "whether the model optimises while it predicts was not looked at",
    ),
    "single_step_beats_iterative": Described(
        "One gradient step that breaks more than many do.",
        "no check compared a single-step attack with the iterative ones",
    ),
    "doubled_steps": Described(
        "Twice the steps that break more: the attack had not converged.",
        "the attacks were not repeated with twice the steps",
    ),
    "doubled_restarts": Described(
        "Twice the restarts that break more: the random start decided.",
        "the attacks were not repeated with twice the restarts",
    ),
    "doubled_targets": Described(
        "Twice the target classes that break more: the attack left some out.",
        "the attacks were not repeated with twice the target classes",
    ),
    "eps_monotone": Described(
        "A larger radius at which fewer samples are broken.",
        "only one eps was attacked",
    ),
    "large_eps": Described(
        "Samples that stand at a radius at which every image may become uniform grey.",
        "no eps was attacked at which every model must fall",
    ),
    "eps_zero": Described(
        "Samples that are broken although nothing may change.",
        "the attacks were not run with eps = 0",
    ),
    "transfer": Described(
        "Examples of another model that break what an attack on this model does not.",
        "no adversarial examples of another model were tried",
    ),
    "noise_baseline": Described(
        "Random noise of the same norm that breaks what gradient attacks left.",
        "no check compared the attacks with random noise of the same norm",
    ),
    "attack_self_test": Described(
        "Attacks that do not even break an undefended linear model.",
        "the attacks were not tried on an undefended model",
    ),
}
FIRST = ("fail", "warn", "pass", "not_run")


def diagnostics(context: Context) -> Markup:
    """Each check with what was measured, its threshold, its status and what it means, failures first; then those not run."""
    parts = []
    for model, evaluation in enumerate(context.evaluations):
        name, checks = context.names[model], evaluation.checks
        ran = sorted(
            (i for i in range(len(checks)) if checks[i].status != "not_run"), key=lambda i: _rank(checks[i].status)
        )
        rows = [
            [
                badge(checks[i].status),
                _title(checks[i].id),
                number(context, model, f"checks.{i}.measured", ".4g"),
                number(context, model, f"checks.{i}.threshold", ".4g"),
                checks[i].message,
            ]
            for i in ran
        ]
        known = {check.id for check in checks}
        left_out = {check.id: check.message for check in checks if check.status == "not_run"}
        left_out |= {
            key: context.why_not(model, "diagnostics", described.missing)
            for key, described in EXPECTED.items()
            if key not in known
        }
        listed = [[badge("not_run"), _title(key), why] for key, why in left_out.items()]
        heads = ["Status", "Check, and what it looks for", "Measured", "Threshold", "What was found, and what to do"]
        parts.append(
            {
                "tag": model_tag(context, model),
                "table": table(f"Checks of {name}", heads, rows) if rows else None,
                "missing": table(f"Checks not run on {name}", ["Status", heads[1], "Reason"], listed)
                if listed
                else None,
                "missing_count": len(left_out),
            }
        )
    return fill_file("diagnostics.html", context, parts=parts)


def _rank(status: str) -> int:
    return FIRST.index(status) if status in FIRST else 0


def _title(check: str) -> Markup:
    name = Markup("<code>{}</code>").format(check)
    return lines([name, EXPECTED[check].looks_for]) if check in EXPECTED else name
