"""What was asked of the attacker, and of which data."""

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import fill_file
from robustcls.results.balance import say_absent, say_counts, what_is_estimated

ORDER, TITLE = 20, "Threat model and provenance"


def threat(context: Context) -> Markup:
    """The attacker's goal, knowledge and budget, and where model and data come from."""
    attacks = [evaluation.attacks for evaluation in context.evaluations]
    return fill_file(
        "threat.html",
        context,
        forwards=[sum(attack.forwards for attack in some) for some in attacks],
        backwards=[sum(attack.backwards for attack in some) for some in attacks],
        estimates=[what_is_estimated(evaluation) for evaluation in context.evaluations],
        counts=[say_counts(evaluation) for evaluation in context.evaluations],
        absent=[say_absent(evaluation) for evaluation in context.evaluations],
    )
