"""The first screen: how accurate, how robust, how sure, and against which thresholds."""

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import derived, estimate, fill_file, number
from robustcls.results.balance import balanced_of, is_uneven, say_absent, say_counts, what_is_estimated
from robustcls.results.comparison import Pair, held, pair
from robustcls.results.policy import judge
from robustcls.results.records import Evaluation
from robustcls.results.statistics import paired_difference
from robustcls.results.thresholds import THRESHOLDS

ORDER, TITLE = 10, "Verdict"


def verdict(context: Context) -> Markup:
    """Clean and worst-case robust accuracy with intervals, and the status of each model, criterion by criterion."""
    verdicts = []
    for evaluation in context.evaluations:
        found = judge(evaluation, context.policy)
        kind = found.status.lower().replace(" ", "-")
        bound = evaluation.robust.kind.removeprefix("upper bound").lstrip(": ")
        verdicts.append(
            {
                "evaluation": evaluation,
                "status": found.status,
                "kind": kind,
                "reasons": [] if found.criteria else found.reasons,
                "criteria": found.criteria,
                "attacks": ", ".join(attack.name for attack in evaluation.attacks),
                "bound": f" ({bound})" if bound else "",
                "estimates": what_is_estimated(evaluation),
                "counts": say_counts(evaluation),
                "absent": say_absent(evaluation),
                "balanced": _balanced(evaluation),
                "over": balanced.over if (balanced := balanced_of(evaluation)) else "",
            }
        )
    pairs = _pairs(context) if context.comparable else []
    asked = {"clean": context.policy.min_clean, "robust": context.policy.min_robust}
    return fill_file(
        "verdict.html",
        context,
        verdicts=verdicts,
        pairs=pairs,
        headline=_headline(context, pairs),
        thresholds=asked,
        dotted=_say_thresholds({f"min_{part}": share for part, share in asked.items() if share is not None}),
        asked=_say_thresholds(context.policy.thresholds),
        parts=[
            ("clean", "Clean accuracy", "on the unchanged images"),
            ("robust", "Worst-case robust accuracy", "after every attack: an empirical upper bound"),
        ],
    )


def _balanced(evaluation: Evaluation) -> list[Markup] | None:
    """Balanced accuracy, clean and robust, where the classes differ in number."""
    found = balanced_of(evaluation)
    if found is None or not is_uneven(evaluation.samples):
        return None
    return [
        estimate(f"balanced {name} accuracy", one, ".1%")
        for name, one in (("clean", found.clean), ("robust", found.robust))
    ]


def _say_thresholds(thresholds: dict[str, float]) -> Markup:
    return Markup(", ").join(
        Markup("{} {} {}").format(
            THRESHOLDS[name], "at least" if name.startswith("min") else "at most", derived(name, share, ".1%")
        )
        for name, share in thresholds.items()
    )


def _pairs(context: Context) -> list[tuple[int, Pair]]:
    """Every model against the first, on the same samples, with its place."""
    first, *others = context.evaluations
    return [(model, one) for model, other in enumerate(others, 1) for one in pair(first, other)]


def _headline(context: Context, pairs: list[tuple[int, Pair]]) -> Markup | str:
    """One sentence on the best and the worst model under attack; says so where the data cannot tell them apart."""
    if not pairs:
        return ""
    shares = [evaluation.robust.accuracy for evaluation in context.evaluations]
    best = shares.index(max(shares))
    worst = min((model for model in range(len(shares)) if model != best), key=lambda model: shares[model])
    right = [[held(sample) for sample in context.evaluations[model].samples] for model in (worst, best)]
    low, high = paired_difference(*right)[1]
    threat = context.evaluations[0].threat
    under = f"On the same images, under {threat.norm} perturbations of {threat.eps_text},"
    if low <= 0 <= high:
        first, second = (context.names[model] for model in sorted((worst, best)))
        return f"{under} {first} and {second} cannot be told apart by robust accuracy."
    falls = "falls to" if context.evaluations[worst].clean.accuracy - shares[worst] > 0.05 else "keeps"
    kept, lost = (number(context, model, "robust.accuracy", ".1%") for model in (best, worst))
    sentence = Markup("{} <strong>{} still classifies {} correctly</strong>, where <strong>{} {} {}</strong>.")
    return sentence.format(under, context.names[best], kept, context.names[worst], falls, lost)
