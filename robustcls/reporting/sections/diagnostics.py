"""The section Self-checks: tests of the evaluation itself, which say whether its numbers can be trusted."""

from markupsafe import Markup

from robustcls.reporting.context import Context, Model
from robustcls.reporting.html import fill_file, lines, piece
from robustcls.results.records import Check

ORDER, TITLE = 100, "Self-checks"

# What each check of a full evaluation looks for.
EXPECTED = {
    "random_output": "Outputs that change from one pass to the next, or with the other images of the batch.",
    "softmax_output": "Probabilities instead of logits, which make gradients vanish.",
    "normalised_twice": "A network that normalises an input that is already normalised, which costs accuracy.",
    "zero_gradients": "Samples whose loss has no gradient, so that gradient attacks cannot make a step.",
    "finite_output": "Outputs that are not finite numbers, which count as errors.",
    "finite_gradients": "Input gradients that are not finite, which an attack cannot follow.",
    "finite_attempts": "Attempts of an attack that contain values that are not finite, and so break nothing.",
    "device": "Model and images on different devices.",
    "black_box_wins": "Samples that gradient attacks left and an attack without gradients breaks.",
    "more_steps": "Robust samples that many more gradient steps break: the attacks had not converged.",
    "inference_optimisation": "A model that optimises during prediction, or keeps state from the images it has seen.",
    "single_step_beats_iterative": "A single gradient step that breaks more samples than many steps do.",
    "doubled_steps": "More samples broken with twice the steps: the attack had not converged.",
    "doubled_restarts": "More samples broken with twice the restarts: the result depends on the random start.",
    "doubled_targets": "More samples broken with twice the target classes: the attack tried too few.",
    "eps_monotone": "A larger radius at which fewer samples are broken.",
    "large_eps": "Samples that stay robust at a radius at which every image may become uniform grey.",
    "eps_zero": "Samples that are broken although no pixel may change.",
    "transfer": "Samples that adversarial images of another model break and an attack on this model does not.",
    "noise_baseline": "Samples that gradient attacks left and random noise of the same norm breaks.",
    "attack_self_test": "Attacks that fail to break even an undefended linear model.",
}
FIRST = ("fail", "warn", "pass", "not_run")  # the order in which checks are listed


def diagnostics(context: Context) -> Markup:
    """Each check with its status, measured value, threshold and message, failures first; then the checks that were not run."""
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
