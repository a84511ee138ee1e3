"""A report section as a user might write it."""

from markupsafe import Markup

from robustcls.reporting.context import Context
from robustcls.reporting.html import fill


def speed(context: Context) -> Markup:
    """How long the evaluation took."""
    return fill("<p>{{ n(0, 'provenance.seconds', '.0f') }} s</p>", context)
