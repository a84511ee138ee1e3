"""The section Threat model and provenance: the attacker, the data and the model."""

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import fill_file

ORDER, TITLE = 20, "Threat model and provenance"


def threat(context: Context) -> Markup:
    """The attacker's goal, knowledge and budget, and the origin of model and data."""
    return fill_file("threat.html", context)
