"""The parts that a report lacks, each with its reason: they are shown as not run, never as a pass."""

from collections.abc import Callable

from markupsafe import Markup

from robustcls.core.measures import measures
from robustcls.reporting.context import Context
from robustcls.reporting.html import not_run, piece
from robustcls.results.records import Evaluation

# The parts of a report besides the measures. Key, as in `Evaluation.not_run`: (order in the report, title, whether an
# evaluation has the part, the usual reason why it does not).
_OTHERS: dict[str, tuple[int, str, Callable[[Evaluation], bool], str]] = {
    "attacks": (35, "Attacks", lambda one: bool(one.attacks), "no attack was run"),
    "alone": (
        36,
        "Accuracy under each attack alone",
        lambda one: any(attack.alone is not None for attack in one.attacks),
        "each attack ran only on the samples that were still robust; measure each attack alone with --each-alone",
    ),
    "curves": (
        40,
        "Security curves",
        lambda one: bool(one.curve),
        "only one eps was attacked; give several with --eps-grid",
    ),
    "classes": (
        60,
        "Classes",
        lambda one: bool(one.samples),
        "the evaluation contains no records of individual samples",
    ),
    "diagnostics": (100, "Self-checks", lambda one: bool(one.checks), "no self-check was run"),
    "training": (
        150,
        "Training",
        lambda one: bool(one.training and one.training.epochs),
        "no training history was given",
    ),
}
_MEASURED = {name: (measure, part) for measure in measures() for name, part in measure.parts.items()}
_PLACED = _OTHERS | {
    name: (part.order, part.title, measure.held_by, part.missing) for name, (measure, part) in _MEASURED.items()
}
# All parts of a full report, in order, by key: (title, whether an evaluation has it, the usual reason why it does not).
PARTS = {name: _PLACED[name][1:] for name in sorted(_PLACED, key=lambda name: _PLACED[name][0])}
ACTIVE_CHECKS = "Self-checks with attacks of their own"  # named where only the other self-checks ran
ONE_MODEL = "one evaluation was given; give two or more to compare models on the same samples"


def title_of(part: str) -> str:
    """The title of a part; for an unknown part, a title made from its key."""
    return PARTS[part][0] if part in PARTS else part.replace("_", " ").capitalize()


def missing_of(context: Context, part: str) -> Markup:
    """A "not run" line with the reason for each model that lacks the part; empty if every model has it."""
    reasons = reasons_of(context, part)
    if len(reasons) == len(context.models) and len(set(reasons.values())) == 1:
        return not_run(reasons[0])
    named = [piece("named", context.models[model].tag, reason) for model, reason in reasons.items()]
    return Markup("").join(map(not_run, named))


def reasons_of(context: Context, part: str) -> dict[int, str]:
    """The reason for each model that lacks the part: the reason in its evaluation, or else the usual one."""
    key = _MEASURED[part][0].key if part in _MEASURED else part
    return {
        model: evaluation.not_run.get(key) or usual_reason(evaluation, part)
        for model, evaluation in enumerate(context.evaluations)
        if not PARTS[part][1](evaluation)
    }


def usual_reason(evaluation: Evaluation, part: str) -> str:
    """The reason for a missing part if the evaluation itself gives none."""
    measure = _MEASURED[part][0] if part in _MEASURED else None
    record = getattr(evaluation, measure.name) if measure else None
    return (measure.empty(record) if measure and record is not None else "") or PARTS[part][2]
