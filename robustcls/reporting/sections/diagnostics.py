"""Whether the numbers can be believed: the evaluation's checks of itself."""

from markupsafe import Markup

from robustcls.reporting.context import Context, Model
from robustcls.reporting.html import fill_file, lines, piece
from robustcls.results.records import Check

ORDER, TITLE = 100, "Self-checks"

# What each check of a full evaluation looks for.
EXPECTED = {
    "random_output": "Outputs that change from one pass to the next, or with the other images of the batch.",
    "softmax_output": "Probabilities in place of logits, which make gradients vanish.",
    "normalised_twice": "A network that normalises its input behind a normalisation, which costs accuracy.",
    "zero_gradients": "Samples whose loss has no gradient, so that gradient attacks make no step.",
    "finite_output": "Outputs that are not numbers, which count as wrong answers.",
    "finite_gradients": "Input gradients that are not finite, along which an attack cannot go.",
    "finite_attempts": "Attempts of an attack that are no images, and so break nothing.",
    "device": "Model and images on different devices.",
    "black_box_wins": "Attacks without gradients that break what gradient attacks did not.",
    "more_steps": "Robust samples that many more gradient steps break: the attacks had not converged.",
    "inference_optimisation": "A model that optimises while it predicts, or keeps what it saw.",
    "single_step_beats_iterative": "One gradient step that breaks more than many do.",
    "doubled_steps": "Twice the steps that break more: the attack had not converged.",
    "doubled_restarts": "Twice the restarts that break more: the random start decided.",
    "doubled_targets": "Twice the target classes that break more: the attack left some out.",
    "eps_monotone": "A larger radius at which fewer samples are broken.",
    "large_eps": "Samples that stay robust at a radius at which every image may become uniform grey.",
    "eps_zero": "Samples that are broken although nothing may change.",
    "transfer": "Examples of another model that break what an attack on this model does not.",
    "noise_baseline": "Random noise of the same norm that breaks what gradient attacks did not.",
    "attack_self_test": "Attacks that do not even break an undefended linear model.",
}
FIRST = ("fail", "warn", "pass", "not_run")


def diagnostics(context: Context) -> Markup:
    """Each check with what was measured, its threshold, its status and what it means, failures first; then those not run."""
    return fill_file("diagnostics.html", context, parts=[_part(model) for model in context.models], title=_title)


def _part(model: Model) -> dict[str, object]:
    checks = model.evaluation.checks
    left_out = {check.id: check.message for check in checks if check.status == "not_run"}
    usual = model.evaluation.not_run.get("diagnostics", "this evaluation did not run it")
    known = {check.id for check in checks}
    return {
        "model": model,
        "ran": sorted(
            ((i, check) for i, check in enumerate(checks) if check.status != "not_run"), key=lambda one: _rank(one[1])
        ),
        "left_out": left_out | {key: usual for key in EXPECTED if key not in known},
    }


def _rank(check: Check) -> int:
    return FIRST.index(check.status) if check.status in FIRST else 0


def _title(check: str) -> Markup:
    name = piece("code", check)
    return lines([name, EXPECTED[check]]) if check in EXPECTED else name
