"""What was asked of the attacker, and of which data."""

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import fill_file

ORDER, TITLE = 20, "Threat model and provenance"


def threat(context: Context) -> Markup:
    """The attacker's goal, knowledge and budget, and where model and data come from."""
    return fill_file("threat.html", context)
