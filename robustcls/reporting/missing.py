"""What a report lacks, and why: shown as not run, never as a pass."""

from collections.abc import Callable

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import model_tag, not_run
from robustcls.results.records import Evaluation


def _has_maps(one: Evaluation) -> bool:
    return bool(one.explanations and one.explanations.methods)


# What a full report measures. Key of `Evaluation.not_run`: (title, whether an evaluation holds it, the usual reason).
PARTS: dict[str, tuple[str, Callable[[Evaluation], bool], str]] = {
    "attacks": ("Attacks", lambda one: bool(one.attacks), "no attack was run"),
    "alone": (
        "Accuracy under each attack alone",
        lambda one: all(attack.alone is not None for attack in one.attacks),
        "the attacks met survivors only; measure each with --each-alone",
    ),
    "curves": (
        "Security curves",
        lambda one: bool(one.curve),
        "accuracy was measured at one eps; give several with --eps-grid",
    ),
    "other_curves": (
        "Security curves in other norms",
        lambda one: bool(one.other_curves),
        "only perturbations in the norm of the threat model were tried",
    ),
    "classes": ("Classes", lambda one: bool(one.samples), "the evaluation holds no record of single samples"),
    "minimum": (
        "Minimum perturbation",
        lambda one: any(found.distance for found in one.minimum or []),
        "no minimum-norm attack was run, such as --attack fmn",
    ),
    "calibration": (
        "Calibration",
        lambda one: one.calibration is not None,
        "the model's confidence was not recorded, so calibration errors were not computed",
    ),
    "corruptions": (
        "Corruptions",
        lambda one: bool(one.corruptions and one.corruptions.results),
        "only adversarial perturbations were applied, no common corruptions",
    ),
    "diagnostics": ("Self-checks", lambda one: bool(one.checks), "no check was run"),
    "gallery": ("Gallery", lambda one: bool(one.gallery and one.gallery.examples), "this evaluation kept no images"),
    "stability": ("Attribution stability", _has_maps, "attribution maps were not compared"),
    "sanity": ("Attribution sanity", _has_maps, "attribution maps were not tested"),
    "training": (
        "Training",
        lambda one: bool(one.training and one.training.epochs),
        "no training history was handed in with this model",
    ),
}
ACTIVE_CHECKS = "Self-checks with attacks of their own"  # left out where others ran
ONE_MODEL = "one model was handed in; give two or more evaluations to compare them on the same samples"


def missing_of(context: Context, part: str) -> Markup:
    """A "not run" line for each model that lacks the part, with the reason; empty where all hold it."""
    reasons = reasons_of(context, part)
    if len(reasons) == len(context.evaluations) and len(set(reasons.values())) == 1:
        return not_run(reasons[0])
    return Markup("").join(
        not_run(Markup("{}: {}").format(model_tag(context, model), reason)) for model, reason in reasons.items()
    )


def reasons_of(context: Context, part: str) -> dict[int, str | Markup]:
    """Why each model that lacks the part lacks it."""
    holds = PARTS[part][1]
    return {
        model: reason_of(context, model, part)
        for model, evaluation in enumerate(context.evaluations)
        if not holds(evaluation)
    }


def usual_reason(evaluation: Evaluation, part: str) -> str:
    """Why an evaluation that gives no reason of its own lacks the part."""
    failed = [found for found in evaluation.minimum or [] if found.error]
    if part == "minimum" and failed:
        return "; ".join(dict.fromkeys(f"{found.attack} broke off: {found.error}" for found in failed))
    return PARTS[part][2]


def reason_of(context: Context, model: int, part: str) -> str | Markup:
    """Why a model lacks the part: as its evaluation says, else the usual reason."""
    usual = usual_reason(context.evaluations[model], part)
    if part not in ("stability", "sanity"):
        return context.why_not(model, part, usual)
    recorded = context.why_not(model, "stability", "")  # both come from the same maps
    found = context.evaluations[model].explanations
    if recorded:
        return recorded
    if found is None:
        return Markup("{}: run <code>robustcls report --model ...</code> or <code>robustcls explain</code>").format(
            usual
        )
    if found.n == 0:
        return "no sample that the model gets right was moved by the attack"
    return "the model carries none of the methods"
