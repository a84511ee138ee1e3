"""The section Verdict, the first of the report: accuracies with intervals, and the status against the thresholds."""

from markupsafe import Markup

from robustcls.reporting.context import Context, Model
from robustcls.reporting.html import derived, fill_file, piece
from robustcls.results.balance import balanced_of, is_uneven
from robustcls.results.bracket import bracket, stated_radius, why_apart
from robustcls.results.comparison import held, pair
from robustcls.results.policy import Policy, judge
from robustcls.results.records import Evaluation
from robustcls.results.statistics import paired_difference
from robustcls.results.thresholds import THRESHOLDS, unit_of

ORDER, TITLE = 10, "Verdict"


def verdict(context: Context) -> Markup:
    """Clean and worst-case robust accuracy with intervals, and the status of each model for every criterion."""
    first, *others = context.models if context.comparable else context.models[:1]
    pairs = [(model.place, one) for model in others for one in pair(first.evaluation, model.evaluation)]
    asked = {"clean": context.policy.min_clean, "robust": context.policy.min_robust}
    return fill_file(
        "verdict.html",
        context,
        verdicts=[_part(context.policy, evaluation) for evaluation in context.evaluations],
        pairs=pairs,
        headline=_headline(context) if pairs else "",
        thresholds=asked,
        dotted=_say_thresholds({f"min_{part}": value for part, value in asked.items() if value is not None}),
        asked=_say_thresholds(context.policy.thresholds),
        parts=[
            ("clean", "Clean accuracy", "on the unchanged images"),
            ("robust", "Worst-case robust accuracy", "after every attack: an empirical upper bound"),
        ],
    )


def _part(policy: Policy, evaluation: Evaluation) -> dict[str, object]:
    found = judge(evaluation, policy)
    bound = evaluation.kind_text.removeprefix("upper bound").lstrip(": ")
    return {
        "evaluation": evaluation,
        "status": found.status,
        "kind": found.status.lower().replace(" ", "-"),
        "reasons": [] if found.criteria else found.reasons,
        "criteria": found.criteria,
        "bound": f" ({bound})" if bound else "",
        "balanced": balanced_of(evaluation) if is_uneven(evaluation.samples) else None,
        "bracket": bracket(evaluation),
        "certified": _certified(evaluation),
    }


def _certified(evaluation: Evaluation) -> dict[str, object] | None:
    """Certified accuracy at one radius, for a model whose certificates and attacks make no bracket at the threat's eps."""
    found = evaluation.certified
    if found is None or bracket(evaluation):
        return None
    radius = stated_radius(evaluation)
    return {"radius": f"{found.norm} {found.text(radius)}", "lower": found.at(radius), "apart": why_apart(evaluation)}


def _say_thresholds(thresholds: dict[str, float]) -> Markup:
    return Markup(", ").join(
        piece(
            "threshold",
            THRESHOLDS[name],
            name.startswith("min"),
            derived(name, value, unit_of(name).spec) + unit_of(name).name,
        )
        for name, value in thresholds.items()
    )


def _headline(context: Context) -> Markup | str:
    """One sentence on the best and the worst model under attack, or that the data cannot tell the two apart."""
    best = max(context.models, key=_robust)
    worst = min((model for model in context.models if model is not best), key=_robust)
    low, high = paired_difference(*([held(one) for one in model.evaluation.samples] for model in (worst, best)))[1]
    threat = best.evaluation.threat
    under = f"On the same images, under {threat.norm} perturbations of {threat.eps_text}{threat.limits},"
    if low <= 0 <= high:
        first, second = (model.name for model in sorted((worst, best), key=lambda model: model.place))
        return f"{under} {first} and {second} cannot be told apart by robust accuracy."
    falls = "falls to" if worst.evaluation.clean.accuracy - _robust(worst) > 0.05 else "keeps"
    kept, lost = (model.n("robust.accuracy", ".1%") for model in (best, worst))
    return piece("headline", under, best.name, kept, worst.name, falls, lost)


def _robust(model: Model) -> float:
    return model.evaluation.robust.accuracy
