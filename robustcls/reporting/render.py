"""Evaluations in, one self-contained HTML file out."""

from collections.abc import Sequence
from pathlib import Path

from robustcls.core.errors import InputError
from robustcls.core.files import replacing
from robustcls.core.policy import Policy
from robustcls.core.records import Evaluation


def report(
    evaluation: Evaluation | Sequence[Evaluation],
    path: str | Path,
    *,
    policy: Policy | None = None,
    title: str | None = None,
    redact_images: bool = False,
    sections: Sequence[str] | None = None,
) -> Path:
    """Writes the report of one evaluation, or of several side by side, and returns its path.

    Raises InputError where the file cannot be written or a section is unknown.
    """
    evaluations = [evaluation] if isinstance(evaluation, Evaluation) else list(evaluation)
    text = render(evaluations, policy=policy, title=title, redact_images=redact_images, sections=sections)
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def render(
    evaluations: Sequence[Evaluation],
    *,
    policy: Policy | None = None,
    title: str | None = None,
    redact_images: bool = False,
    sections: Sequence[str] | None = None,
) -> str:
    """The report as text; the same evaluations give the same bytes.

    sections: names of section plug-ins in the order wanted, dotted ones too; None takes all of ours in their own order.
    redact_images: leaves out the pixels and the attribution maps, from the page and from the JSON inside it.
    """
    if not evaluations:
        raise InputError("a report needs an evaluation: give the file that `robustcls attack` wrote")
    from robustcls.reporting.page import compose  # Jinja2 and NumPy load here, not with the package

    return compose(evaluations, policy or Policy(), title, redact_images, sections)
