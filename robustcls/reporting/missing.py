"""What a report lacks, and why: shown as not run, never as a pass."""

from collections.abc import Callable

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import not_run, piece
from robustcls.results.records import Evaluation


def _has_maps(one: Evaluation) -> bool:
    return bool(one.explanations and one.explanations.methods)


# What a full report measures. Key of `Evaluation.not_run`: (title, whether an evaluation holds it, the usual reason).
PARTS: dict[str, tuple[str, Callable[[Evaluation], bool], str]] = {
    "attacks": ("Attacks", lambda one: bool(one.attacks), "no attack was run"),
    "alone": (
        "Accuracy under each attack alone",
        lambda one: all(attack.alone is not None for attack in one.attacks),
        "each attack ran only on the samples that were still robust; measure each with --each-alone",
    ),
    "curves": (
        "Security curves",
        lambda one: bool(one.curve),
        "only one eps was attacked; give several with --eps-grid",
    ),
    "other_curves": ("Security curves in other norms", lambda one: bool(one.other_curves), "no other norm was tried"),
    "classes": ("Classes", lambda one: bool(one.samples), "the evaluation holds no record of single samples"),
    "minimum": (
        "Minimum perturbation",
        lambda one: any(found.distance for found in one.minimum or []),
        "no minimum-norm attack was run, such as --attack fmn",
    ),
    "calibration": ("Calibration", lambda one: one.calibration is not None, "the model's confidence was not recorded"),
    "corruptions": (
        "Corruptions",
        lambda one: bool(one.corruptions and one.corruptions.results),
        "no corruption was applied",
    ),
    "diagnostics": ("Self-checks", lambda one: bool(one.checks), "no check was run"),
    "gallery": ("Gallery", lambda one: bool(one.gallery and one.gallery.examples), "this evaluation kept no images"),
    "stability": ("Attribution stability", _has_maps, "attribution maps were not compared"),
    "sanity": ("Attribution sanity", _has_maps, "attribution maps were not tested"),
    "training": ("Training", lambda one: bool(one.training and one.training.epochs), "no training history was given"),
}
ACTIVE_CHECKS = "Self-checks with attacks of their own"  # left out where others ran
ONE_MODEL = "one evaluation was given; give two or more to compare models on the same samples"


def title_of(part: str) -> str:
    """The title of a part, also of one that we do not know."""
    return PARTS[part][0] if part in PARTS else part.replace("_", " ").capitalize()


def missing_of(context: Context, part: str) -> Markup:
    """A "not run" line for each model that lacks the part, with the reason; empty where all hold it."""
    reasons = reasons_of(context, part)
    if len(reasons) == len(context.models) and len(set(reasons.values())) == 1:
        return not_run(reasons[0])
    named = [piece("named", context.models[model].tag, reason) for model, reason in reasons.items()]
    return Markup("").join(map(not_run, named))


def reasons_of(context: Context, part: str) -> dict[int, str | Markup]:
    """Why each model that lacks the part lacks it: as its evaluation says, else the usual reason."""
    return {
        model: _reason_of(evaluation, part)
        for model, evaluation in enumerate(context.evaluations)
        if not PARTS[part][1](evaluation)
    }


def usual_reason(evaluation: Evaluation, part: str) -> str:
    """Why an evaluation that gives no reason of its own lacks the part."""
    failed = [found for found in evaluation.minimum or [] if found.error]
    if part == "minimum" and failed:
        return "; ".join(dict.fromkeys(f"{found.attack} failed: {found.error}" for found in failed))
    return PARTS[part][2]


def _reason_of(evaluation: Evaluation, part: str) -> str | Markup:
    usual, maps = usual_reason(evaluation, part), part in ("stability", "sanity")
    recorded = evaluation.not_run.get("stability" if maps else part)  # both come from the same maps
    if recorded or not maps:
        return recorded or usual
    if evaluation.explanations is None:
        return piece("run_explain", usual)
    if evaluation.explanations.n == 0:
        return "the attack changed no sample that the model classifies correctly"
    return "no attribution method supports this model"
